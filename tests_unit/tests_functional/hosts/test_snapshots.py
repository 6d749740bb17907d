"""Contract: a host's QEMU is blamed for a time limit only if the host had processors to keep it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.codes import Code
from harness.deadline import more_patience
from harness.errors import SetupBroken, SnapproofError, SubjectFailed
from harness.hosts.host import Host
from harness.linux.run_queue import ProcessorTime
from snapproof.runs.host_plan import lent_to_vm
from tests_functional.hosts.portable_warm_guest import PortableWarmGuest
from tests_functional.hosts.snapshots import HostPaths, HostSaves, _order, failure
from tests_unit.support.scenario_values import stack

_NOT_COUNTED = ProcessorTime(0, 0)
_ENOUGH = ProcessorTime(50, 50)
_STARVED = ProcessorTime(49, 51)


def _failure(got: ProcessorTime, **facts: Any) -> SnapproofError:
    event = {"sentence": "More steps did not happen.", "blames_qemu": True, "log": ["last"], **facts}
    return failure("old", event, ["qemu"], got)


def test_a_starved_vm_is_no_evidence() -> None:
    """A VM that got less than half of what it wanted did not keep the time because of this machine."""
    error = _failure(_STARVED, expired=True)
    assert (type(error), error.code) == (SetupBroken, Code.SETUP_LIMIT)
    assert "More steps did not happen." in error.sentence
    assert "got 49% of the processor time" in error.sentence
    assert error.evidence.log_tail == "last"


@pytest.mark.parametrize(
    ("got", "expired"), [(_ENOUGH, True), (_NOT_COUNTED, True), (_STARVED, False), (_ENOUGH, False)]
)
def test_qemu_is_blamed_for_all_else(got: ProcessorTime, expired: bool) -> None:
    """A QEMU that dies does so on a busy machine too, and one that hangs on an idle machine is stuck."""
    assert type(_failure(got, expired=expired)) is SubjectFailed


def test_what_is_not_qemus_fault_stays_so() -> None:
    """A program that could not be started is a fault of the set-up."""
    assert type(_failure(_ENOUGH, expired=False, blames_qemu=False)) is SetupBroken


def test_patience_holds_for_what_runs_on_a_host_too(tmp_path: Path) -> None:
    """The steps of a save and the feature tests there have limits of their own."""
    warm = cast("PortableWarmGuest", SimpleNamespace(stack=stack(tmp_path), counters=(64,)))
    path = PurePosixPath("/disks/x")
    host = cast("Host", SimpleNamespace(folder=path))
    paths = HostPaths(path, path, path, path, path, {"stopped": path})

    def limits() -> tuple[float, str]:
        words = lent_to_vm()
        return _order(host, warm, paths, HostSaves(["stopped"]))["seconds"], words[words.index("--slow") + 1]

    with more_patience(1.0):
        assert limits() == (120.0, "4")
    with more_patience(2.5):
        assert limits() == (300.0, "10")
