"""Contract: one thing is singular, and all other numbers are plural."""

from __future__ import annotations

import pytest

from harness.plural import counted


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 lists"), (1, "1 list"), (2, "2 lists"), (1001, "1,001 lists")]
)
def test_a_number_with_its_noun(number: int, words: str) -> None:
    """Thousands have a comma."""
    assert counted(number, "list") == words
