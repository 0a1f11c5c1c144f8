"""What the comparison with RQ's own tests calls wrong."""

from __future__ import annotations

import pytest

from tests.upstream.__main__ import DIFFERENT, told


@pytest.mark.parametrize(
    ("theirs", "ours", "code"),
    [
        ({"a": "passed"}, {"a": "passed"}, 0),
        ({"a": "passed"}, {"a": "failed"}, 1),
        ({"a": "passed"}, {"a": "skipped"}, 1),
        ({"a": "passed"}, {}, 1),
        ({"a": "failed"}, {"a": "failed"}, 0),
        ({"a": "failed"}, {"a": "passed"}, 0),
        ({}, {}, 1),
        ({next(iter(DIFFERENT)): "passed"}, {next(iter(DIFFERENT)): "failed"}, 0),
    ],
)
def test_only_what_passed_before_and_has_no_reason_is_wrong(
    theirs: dict[str, str], ours: dict[str, str], code: int
) -> None:
    assert told(theirs, ours) == code
