"""Contract: a generation ID of another guest, or of another time, turns the check red."""

from __future__ import annotations

import uuid

from harness.codes import Code
from tests_functional.in_flight.vmgenid import GuestIds, judge_kept, judge_restored_ids
from tests_unit.support.scenario_values import codes

_A, _B, _C = (uuid.UUID(int=number) for number in (1, 2, 3))


def test_file_and_source_keep_the_id() -> None:
    """Each for itself."""
    assert codes(judge_kept(GuestIds(_A, _A, _A))) == []
    assert codes(judge_kept(GuestIds(_A, _A, _B))) == [Code.VMGENID_FILE]
    assert codes(judge_kept(GuestIds(_A, _B, _A))) == [Code.VMGENID_SOURCE]


def test_each_restored_guest_has_an_id_of_its_own() -> None:
    """That of its QEMU, and no other guest's."""
    assert codes(judge_restored_ids(GuestIds(_A, _A, _A, [(_B, _B), (_C, _C)]))) == []
    assert codes(judge_restored_ids(GuestIds(_A, _A, _A, [(_B, _C)]))) == [Code.VMGENID_STALE]
    assert codes(judge_restored_ids(GuestIds(_A, _A, _A, [(_B, _B), (_B, _B)]))) == [Code.VMGENID_SAME]
    stale = judge_restored_ids(GuestIds(_A, _A, _A, [(_B, _A)]))
    assert codes(stale) == [Code.VMGENID_STALE, Code.VMGENID_SAME]
