"""Contract: devices are plugged in while nothing is saved, else refused; restored guests have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.codes import Code
from tests_functional.explore import objects
from tests_functional.explore.model import RUNNING, SUSPENDED, Model
from tests_unit.support.explored_session import codes_of, stand_in_session

_SAVING = Model().begun(RUNNING)
_GOES_ON = {"status": "active", "ram": {"remaining": 32 << 20}}
_MEMORY = {"device": "plugged-memory"}


def test_a_plugged_device_is_in_restored_guests_once() -> None:
    """Its memory comes first; a device that is there is not plugged in again."""
    session = stand_in_session(Model())
    assert objects.plug(session, _MEMORY)
    assert session.qmp.given == ["object-add", "device_add"]
    assert session.restored_arguments == (
        *("-object", "memory-backend-ram,size=1048576,id=plugged-memory-memory"),
        *("-device", "ivshmem-plain,addr=0x12,memdev=plugged-memory-memory,master=on,id=plugged-memory"),
    )
    assert not objects.plug(session, _MEMORY)


def test_a_device_must_be_refused_while_ram_is_saved() -> None:
    """Its memory is taken away again, and the save's descriptors are no longer compared."""
    accepted = stand_in_session(_SAVING, answer=_GOES_ON)
    objects.plug(accepted, _MEMORY)
    assert codes_of(accepted) == [Code.DURING_SAVE_ACCEPTED]
    refused = stand_in_session(_SAVING, {"device_add": "not allowed while migrating"}, _GOES_ON)
    objects.plug(refused, _MEMORY)
    assert not refused.failed
    assert refused.qmp.given == ["object-add", "device_add", "object-del"]
    assert not refused.plugged
    assert refused.save is not None
    assert refused.save.touched


def test_near_the_end_of_a_save_no_device_is_plugged_in() -> None:
    """QEMU may take it or not, so that nobody could tell whether the file has it."""
    session = stand_in_session(_SAVING, answer={"status": "completed"})
    objects.plug(session, {"device": "plugged-rng"})
    assert session.qmp.given == []


def test_a_device_that_qemu_does_not_take_is_in_no_restored_guest() -> None:
    """Its memory is taken away again; a guest that sleeps gets none."""
    session = stand_in_session(Model(), {"device_add": "no slot"})
    objects.plug(session, _MEMORY)
    assert session.restored_arguments == ()
    assert session.qmp.given[-1] == "object-del"
    assert not objects.plug(stand_in_session(Model(run_state=SUSPENDED)), _MEMORY)


@pytest.mark.parametrize("refused", [{}, {"qom-set": "no", "pmemsave": "no"}])
def test_properties_and_memory_may_be_refused(refused: dict[str, str], tmp_path: Path) -> None:
    """All that is given is what the step says; the file of the memory is in the list's folder."""
    session = stand_in_session(Model(), refused, folder=tmp_path)
    objects.qom_set(session, {"path": "/machine", "property": "mem-merge", "value": True})
    objects.read_memory(session, {"address": 4096, "size": 8192})
    assert session.qmp.arguments == {
        "qom-set": {"path": "/machine", "property": "mem-merge", "value": True},
        "pmemsave": {"val": 4096, "size": 8192, "filename": str(tmp_path / "memory")},
    }
    assert not session.failed
