"""Contract: whatever ends, the VM is put back as it was, and what another one has changed stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.attach.guard import DESCRIPTOR_NAME, Order
from harness.attach.machine import GUARD_LOG, AttachedMachine, start_guard
from harness.errors import SetupBroken
from harness.qemu.migration import BACKGROUND_SNAPSHOT, set_capability
from tests_unit.support.fake_monitor import FakeVm


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _attached(place: Path, max_stop: float = 60.0) -> AttachedMachine:
    return AttachedMachine(place / "qmp", place, max_stop)


def _wait(condition: object, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    assert callable(condition)
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def _touch(machine: AttachedMachine) -> None:
    """Do what a save does up to its end."""
    reader, writer = os.pipe()
    machine.qmp.pass_descriptor(writer, DESCRIPTOR_NAME)
    os.close(reader)
    os.close(writer)
    set_capability(machine, BACKGROUND_SNAPSHOT, True)
    machine.qmp.execute("migrate-set-parameters", {"max-bandwidth": 5})
    machine.qmp.execute("stop")


@pytest.mark.parametrize("pretty", [False, True])
def test_put_back_on_request_and_only_once(place: Path, pretty: bool) -> None:
    """Each thing that was set is put back and said, also over a monitor that prints several lines."""
    vm = FakeVm(place / "qmp", pretty=pretty)
    with _attached(place) as machine:
        _touch(machine)
        assert (vm.state, vm.capabilities[BACKGROUND_SNAPSHOT]) == ("paused", True)
        assert machine.put_back() == [
            "The guest was continued.",
            f"The capability '{BACKGROUND_SNAPSHOT}' is off again.",
            "The parameter 'max-bandwidth' is 134217728 again.",
            f"QEMU's descriptor '{DESCRIPTOR_NAME}' was closed.",
        ]
        assert machine.put_back() == []
    assert (vm.state, vm.capabilities[BACKGROUND_SNAPSHOT]) == ("running", False)
    assert vm.parameters["max-bandwidth"] == 134217728
    assert vm.descriptors == {}
    vm.close()


def test_what_others_change_stays(place: Path) -> None:
    """A capability that we did not set and a guest that somebody else has stopped are not touched."""
    vm = FakeVm(place / "qmp")
    with _attached(place):
        vm.capabilities["xbzrle"] = False
        vm.state = "paused"
    assert vm.capabilities["xbzrle"] is False
    assert vm.state == "paused"
    vm.close()


def test_save_is_awaited_and_not_cancelled(place: Path) -> None:
    """QEMU 7.2 hangs after a save that was cancelled, so the capability waits for its end."""
    vm = FakeVm(place / "qmp")
    with _attached(place) as machine:
        set_capability(machine, BACKGROUND_SNAPSHOT, True)
        machine.qmp.execute("migrate", {"uri": "fd:x"})
        done = machine.put_back()
    assert done[0] == "The save is 'active'; its end is awaited, while the guest runs."
    assert "migrate_cancel" not in vm.commands
    ends = [vm.commands.index("query-migrate"), len(vm.commands) - vm.commands[::-1].index("query-migrate")]
    switched = [at for at, name in enumerate(vm.commands) if name == "migrate-set-capabilities"]
    assert ends[0] < switched[-1] >= ends[1]
    vm.close()


def test_guest_that_was_paused_stays_so(place: Path) -> None:
    """QEMU 6.0 to 8.1 resume a guest that was paused before the save; it is stopped again."""
    vm = FakeVm(place / "qmp")
    vm.state, vm.resumes = "paused", True
    with _attached(place) as machine:
        machine.qmp.execute("migrate", {"uri": "fd:x"})
        assert machine.put_back()[-1].startswith("The guest, which QEMU had resumed")
    assert vm.state == "paused"
    vm.close()


_VICTIM = """
import os, sys
from pathlib import Path
from tests_unit.harness.attach.test_guard import _attached, _touch
with _attached(Path(sys.argv[1])) as machine:
    _touch(machine)
    print("touched", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_process_leaves_nothing(place: Path, number: signal.Signals) -> None:
    """Our process is killed while the guest is stopped and the capability on: the guard puts both back."""
    vm = FakeVm(place / "qmp")
    with subprocess.Popen(
        [sys.executable, "-c", _VICTIM, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"touched\n"
        assert vm.state == "paused"
        victim.send_signal(number)
    _wait(lambda: vm.state == "running")
    _wait(lambda: not vm.capabilities[BACKGROUND_SNAPSHOT])
    _wait(lambda: vm.parameters["max-bandwidth"] == 134217728)
    _wait(lambda: not vm.descriptors)
    vm.close()


def test_killed_guard_is_replaced(place: Path) -> None:
    """The guard is killed: another one puts back all that the first may have set, and nothing blames QEMU."""
    vm = FakeVm(place / "qmp")
    with (
        pytest.raises(SetupBroken, match="the guard, which is snapproof's own process"),
        _attached(place) as machine,
    ):
        _touch(machine)
        # The process id of the fake is this test's own.
        os.kill(machine.guard_pid, signal.SIGKILL)
        machine.qmp.execute("query-status")
    assert (vm.state, vm.capabilities[BACKGROUND_SNAPSHOT]) == ("running", False)
    assert vm.parameters["max-bandwidth"] == 134217728
    vm.close()


def test_guest_is_not_stopped_for_longer_than_allowed(place: Path) -> None:
    """The guard continues the guest by itself, also where our process hangs."""
    vm = FakeVm(place / "qmp")
    with _attached(place, max_stop=0.3) as machine:
        machine.qmp.execute("stop")
        _wait(lambda: vm.state == "running")
        # The event reaches us after the state has changed.
        _wait(lambda: "RESUME" in [event.name for event in machine.qmp.events_since(0)])
    assert "0.3 s, the limit; it is continued" in (place / GUARD_LOG).read_text()
    vm.close()


def test_refused_change_is_said(place: Path) -> None:
    """A VM that cannot be put back is no silence."""
    vm = FakeVm(place / "qmp")
    with _attached(place) as machine:
        set_capability(machine, BACKGROUND_SNAPSHOT, True)
        vm.refused.add("migrate-set-capabilities")
        assert machine.put_back() == [
            f"QEMU refuses to switch the capability '{BACKGROUND_SNAPSHOT}' off again: No."
        ]
        # The end of the `with` tries again.
        vm.refused.clear()
    assert vm.capabilities[BACKGROUND_SNAPSHOT] is False
    vm.close()


def test_sockets_that_are_no_monitor(place: Path) -> None:
    """A path without a listener, and a listener that says nothing, are told apart in one sentence each."""
    with pytest.raises(SetupBroken, match="cannot be connected to: No such file or directory"):
        start_guard(Order(str(place / "none"), 1.0), place)


def test_an_attached_machine_is_never_ended(place: Path) -> None:
    """`quit` is refused."""
    vm = FakeVm(place / "qmp")
    with _attached(place) as machine:
        with pytest.raises(SetupBroken, match="not ended by it"):
            machine.quit()
        assert machine.config.ram_mib == 128
        # The fake listens in this process.
        assert machine.pid == os.getpid()
    assert "quit" not in vm.commands
    vm.close()
