"""The list of mutations fits the tree: that the suite notices each is ``make mutants``' affair."""

from __future__ import annotations

import pytest

from tests.proof.mutants import MUTANTS, ROOT, Mutant, mutated


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutation_can_be_made(mutant: Mutant) -> None:
    text = (ROOT / mutant.path).read_text(encoding="utf-8")
    assert mutated(mutant, text) != text
    for path in mutant.tests.split():
        assert (ROOT / path).exists()
