"""Contract: a TPM that has lost measurements, or takes no more, turns its check red."""

from __future__ import annotations

import hashlib

import pytest

from harness.codes import Code
from tests_functional.beside_ram.external import judge_restored_tpm, judge_source_tpm
from tests_functional.beside_ram.tpm import extended
from tests_unit.support.scenario_values import codes

_T0, _LATER, _NOTHING = bytes([1] * 32), bytes([2] * 32), bytes(32)


def test_extended_value() -> None:
    """It is the digest of the old value and of what is measured (TPM 2.0 Library, part 1, 17.2)."""
    assert extended(_T0, _LATER) == hashlib.sha256(_T0 + _LATER).digest()


def test_source() -> None:
    """The source's TPM has all measurements."""
    assert codes(judge_source_tpm(_LATER, _LATER)) == []
    assert codes(judge_source_tpm(_T0, _LATER)) == [Code.BESIDE_RAM_SOURCE]


@pytest.mark.parametrize(
    ("found", "after", "expected"),
    [
        (_T0, _LATER, []),
        (_LATER, _LATER, [Code.BESIDE_RAM_LOST]),
        (_NOTHING, _LATER, [Code.BESIDE_RAM_LOST]),
        (_T0, _T0, [Code.BESIDE_RAM_STUCK]),
    ],
)
def test_restored(found: bytes, after: bytes, expected: list[Code]) -> None:
    """The restored TPM has the value of T0, and takes one more measurement."""
    assert codes(judge_restored_tpm(found, _T0, after, _LATER)) == expected
