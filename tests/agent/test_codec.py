"""A reading as one line: there and back unchanged, and nothing but a reading is taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sources import LARGEST_BYTES, Process, Reading
from agent.sources.codec import from_line, to_line
from broker.hardware import FIELDS, WORDS

SIZES = st.integers(0, LARGEST_BYTES)
PERCENT = st.integers(0, 100)
COUNTS = st.integers(0, 1 << 53)
TEXTS = st.text(max_size=20)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


def value_of(name: str) -> st.SearchStrategy[Any]:
    if name in WORDS:
        return TEXTS
    return st.integers(-1000, 1000) if name.endswith("_c") else COUNTS


READINGS = st.builds(
    Reading,
    uuid=st.text(min_size=1, max_size=20), index=st.integers(0, 64), name=TEXTS,
    memory_total_bytes=maybe(st.integers(1, LARGEST_BYTES)), memory_used_bytes=maybe(SIZES),
    memory_reserved_bytes=maybe(SIZES), temperature_c=maybe(st.integers(0, 150)), utilization_percent=maybe(PERCENT),
    power_mw=maybe(COUNTS), capability=TEXTS, mig=TEXTS, fault=TEXTS,
    processes=maybe(
        st.lists(st.builds(Process, st.integers(0, (1 << 32) - 1), maybe(SIZES), maybe(PERCENT)), max_size=4).map(tuple)
    ),
    hardware=st.fixed_dictionaries({}, optional={name: value_of(name) for name in FIELDS}),
    xids=st.lists(COUNTS, max_size=3).map(tuple),
)  # fmt: skip


@given(READINGS)
def test_a_reading_survives_its_line(reading: Reading) -> None:
    line = to_line(reading)
    assert len(line.splitlines()) == 1
    assert line.isascii()
    assert from_line(line) == reading


@given(READINGS)
def test_equal_readings_give_equal_lines_whatever_order_their_hardware_has(reading: Reading) -> None:
    turned = Reading(**{name: getattr(reading, name) for name in Reading.__dataclass_fields__}
                     | {"hardware": dict(reversed(reading.hardware.items()))})  # fmt: skip
    assert to_line(turned) == to_line(reading)


def test_what_is_unknown_is_left_out() -> None:
    assert to_line(Reading("GPU-a", 0, "Card")) == '{"uuid":"GPU-a","index":0,"name":"Card"}'
    known = Reading("GPU-a", 0, "Card", temperature_c=0, processes=(Process(7, None, 3),), xids=(79,))
    assert json.loads(to_line(known)) == {
        "uuid": "GPU-a", "index": 0, "name": "Card", "temperature_c": 0, "processes": [[7, None, 3]], "xids": [79],
    }  # fmt: skip
    assert from_line(to_line(Reading("GPU-a", 0, "Card", processes=()))).processes == ()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"uuid": ""}, "uuid=''"),
        ({"uuid": None}, "uuid=None"),
        ({"index": -1}, "index=-1"),
        ({"index": True}, "index=True"),
        ({"name": 7}, "name=7"),
        ({"speed": 7}, "speed=7"),
        ({"fault": ["x"]}, r"fault=\['x'\]"),
        ({"temperature_c": 151}, "temperature_c=151"),
        ({"temperature_c": 41.0}, r"temperature_c=41\.0"),
        ({"temperature_c": "41"}, "temperature_c='41'"),
        ({"temperature_c": None}, "temperature_c=None"),
        ({"temperature_c": float("nan")}, "temperature_c=nan"),
        ({"utilization_percent": 101}, "utilization_percent=101"),
        ({"memory_total_bytes": 0}, "memory_total_bytes=0"),
        ({"memory_used_bytes": LARGEST_BYTES + 1}, "memory_used_bytes="),
        ({"power_mw": -1}, "power_mw=-1"),
        ({"processes": {}}, "processes={}"),
        ({"processes": [[1, 2]]}, r"processes=\[1, 2\]"),
        ({"processes": [[None, 2, 3]]}, "pid=None"),
        ({"processes": [[1, -2, 3]]}, "memory_bytes=-2"),
        ({"processes": [[1, 2, 103]]}, "utilization_percent=103"),
        ({"xids": 79}, "xids=79"),
        ({"xids": ["79"]}, "xids='79'"),
        ({"hardware": []}, r"hardware=\[\]"),
        ({"hardware": {"taste": 1}}, "hardware.taste=1"),
        ({"hardware": {"fan_percent": "loud"}}, "fan_percent='loud'"),
        ({"hardware": {"fan_percent": -1}}, "fan_percent=-1"),
        ({"hardware": {"driver": 580}}, "driver=580"),
        ({"name": 10**90}, r"name=1000+\.\.\. is"),
    ],
)
def test_what_is_no_reading_is_refused_by_field_and_value(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}"):
        from_line(json.dumps({"uuid": "GPU-a", "index": 0, "name": "Card"} | changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '{"uuid":"a","index":0}', "[" * 100_000])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
        from_line(text)


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="index=1 is not allowed: given twice"):
        from_line('{"uuid":"a","index":0,"name":"Card","index":1}')


@given(st.text(max_size=60) | st.recursive(st.none() | st.integers() | TEXTS, st.lists, max_leaves=5).map(json.dumps))
def test_any_text_is_a_reading_or_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        from_line(text)


def test_nan_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        to_line(Reading("GPU-a", 0, "Card", power_mw=float("nan")))  # type: ignore[arg-type]
