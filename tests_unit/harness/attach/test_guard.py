"""Contract: whatever ends, the VM is put back as it was, and what another one has changed stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.attach import guard
from harness.attach.guard import DESCRIPTOR_NAME, WENT_ON, Order
from harness.attach.ledger import Before, Gone, by_hand
from harness.attach.machine import GUARD_LOG, AttachedMachine, start_guard
from harness.attach.monitor import SocketMonitor
from harness.errors import SetupBroken
from harness.qemu.migration import BACKGROUND_SNAPSHOT, set_capability
from harness.qemu.qmp import CommandRefused
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


def test_descriptor_in_a_set_is_taken_out(place: Path) -> None:
    """Ours is removed by its name, and once; those of others in the VM's sets stay."""
    vm = FakeVm(place / "qmp")
    with _attached(place) as machine:
        for name in ("theirs", DESCRIPTOR_NAME):
            descriptor = os.open(os.devnull, os.O_WRONLY)
            assert machine.qmp.add_descriptor(descriptor, name) == 7
            os.close(descriptor)
            if name == "theirs":
                # As if its owner had done it.
                machine.qmp.execute("query-status")
                vm.sets["of the owner"] = vm.sets.pop("theirs")
        done = machine.put_back()
        assert done == [f"QEMU's descriptor '{DESCRIPTOR_NAME}' was closed."]
        assert machine.put_back() == []
    assert list(vm.sets) == ["of the owner"]
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
    vm.state, vm.resumes, vm.version = "paused", True, (8, 1)
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


@pytest.mark.parametrize(("version", "conts"), [((8, 2), 1), ((7, 2), 2)])
def test_guest_that_its_owner_starts_runs_on(place: Path, version: tuple[int, int], conts: int) -> None:
    """It was paused before: a QEMU that resumes nothing, or a second RESUME, tells that it was the owner."""
    vm = FakeVm(place / "qmp")
    vm.state, vm.version = "paused", version
    with _attached(place) as machine:
        machine.qmp.execute("migrate", {"uri": "fd:x"})
        for _ in range(conts):
            machine.qmp.execute("cont")
        assert "its owner may have started it" in machine.put_back()[-1]
    assert vm.state == "running"
    vm.close()


def test_guest_that_a_failed_save_has_stopped_goes_on(place: Path) -> None:
    """QEMU stops the guest by itself, fails, and leaves it so; nobody sent a `stop`."""
    vm = FakeVm(place / "qmp")
    vm.fails = True
    with _attached(place) as machine:
        machine.qmp.execute("migrate", {"uri": "fd:x"})
        assert vm.state == "paused"
        assert machine.put_back() == ["The guest was continued."]
    assert vm.state == "running"
    vm.close()


@pytest.mark.parametrize("refused", ["cont", "query-status", "query-migrate", "query-migrate-parameters"])
def test_refused_step_keeps_no_other_back(place: Path, refused: str) -> None:
    """The capability goes off all the same, and the guard tries on to continue the guest."""
    vm = FakeVm(place / "qmp")
    with _attached(place) as machine:
        _touch(machine)
        machine.qmp.execute("migrate", {"uri": "fd:x"})
        vm.refused.add(refused)
        assert any("QEMU refuses" in sentence for sentence in machine.put_back())
        assert vm.capabilities[BACKGROUND_SNAPSHOT] is False
        threading.Timer(1.5, vm.refused.clear).start()
    assert vm.state == "running"
    vm.close()


def test_limit_is_kept_where_cont_is_refused_at_first(place: Path) -> None:
    """The guard tries on, and serves meanwhile."""
    vm = FakeVm(place / "qmp")
    vm.refused.add("cont")
    with _attached(place, max_stop=0.2) as machine:
        machine.qmp.execute("stop")
        _wait(lambda: "cont" in vm.commands)
        assert machine.qmp.execute("query-status")["status"] == "paused"
        vm.refused.clear()
        _wait(lambda: vm.state == "running")
    vm.close()


def test_failed_takeover_does_not_take_what_we_have_set_for_what_was(place: Path) -> None:
    """The second guard cannot look; the end of the `with` still knows the VM of the beginning."""
    vm = FakeVm(place / "qmp")
    other = place / "other"
    with _attached(place) as machine:
        _touch(machine)
        os.kill(machine.guard_pid, signal.SIGKILL)
        machine.way = other
        with pytest.raises(SetupBroken, match="cannot be connected to"):
            machine.put_back()
        assert (vm.state, vm.capabilities[BACKGROUND_SNAPSHOT]) == ("paused", True)
        machine.way = place / "qmp"
    assert machine.before.state == "running"
    assert (vm.state, vm.capabilities[BACKGROUND_SNAPSHOT]) == ("running", False)
    vm.close()


def test_takeover_is_tried_again(place: Path) -> None:
    """A monitor that is free only after a moment is waited for."""
    vm = FakeVm(place / "qmp")
    with _attached(place) as machine:
        _touch(machine)
        os.kill(machine.guard_pid, signal.SIGKILL)
        (place / "qmp").rename(place / "away")
        threading.Timer(1.0, (place / "away").rename, [place / "qmp"]).start()
        assert "The guest was continued." in machine.put_back()
    vm.close()


def test_what_to_type_is_printed_where_nothing_can_be_put_back(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last try has failed: the owner has to know."""
    vm = FakeVm(place / "qmp")
    with pytest.raises(SetupBroken), _attached(place) as machine:
        _touch(machine)
        os.kill(machine.guard_pid, signal.SIGKILL)
        machine.way = place / "gone"
    assert "type in its monitor: cont; then, when 'info migrate'" in capsys.readouterr().err
    vm.close()


def test_what_to_type_is_for_the_guest_as_it_was() -> None:
    """A guest that was paused is not to be continued."""
    capabilities = {BACKGROUND_SNAPSHOT: False, "xbzrle": True}
    off = f"when 'info migrate' has no 'active': migrate_set_capability {BACKGROUND_SNAPSHOT} off"
    assert by_hand(Before("running", capabilities, {})) == f"cont; then, {off}"
    assert by_hand(Before("paused", capabilities, {})) == off


def test_hidden_process_is_taken_over_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU's process id is not known: only the guard's own word says that QEMU is gone."""
    monkeypatch.setattr("harness.attach.machine.read_process", lambda _pid: None)
    vm = FakeVm(place / "qmp")
    with _attached(place) as machine:
        _touch(machine)
        os.kill(machine.guard_pid, signal.SIGKILL)
        assert "The guest was continued." in machine.put_back()
        assert machine.alive()
        vm.hang_up()
        _wait(lambda: not machine.alive())
    vm.close()


def test_slow_qemu_is_no_qemu_that_is_gone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for as long as its monitor is open."""
    monkeypatch.setattr(guard, "_ANSWER_SECONDS", 0.05)
    vm = FakeVm(place / "qmp")
    vm.slow["query-status"] = 0.4
    ours, theirs = socket.socketpair()
    monitor = SocketMonitor(place / "qmp", 5.0)
    found = guard.Guard(theirs, monitor, Order(str(place / "qmp"), 1.0))
    assert found.ledger.before.state == "running"
    vm.hang_up()
    with pytest.raises(Gone):
        found.ask("query-status")
    for one in (ours, theirs, monitor):
        one.close()
    vm.close()


@pytest.mark.parametrize("state", ["running", "paused"])
def test_no_save_of_a_guest_that_has_gone_on(place: Path, state: str) -> None:
    """T0 would not be that of the golden image; the next stop makes it right again."""
    vm = FakeVm(place / "qmp")
    vm.state = state
    with _attached(place) as machine:
        machine.qmp.execute("stop")
        machine.qmp.execute("cont")
        with pytest.raises(CommandRefused, match=WENT_ON):
            machine.qmp.execute("migrate", {"uri": "fd:x"})
        assert "migrate" not in vm.commands
        machine.qmp.execute("stop")
        machine.qmp.execute("migrate", {"uri": "fd:x"})
        assert "migrate" in vm.commands
    vm.close()
