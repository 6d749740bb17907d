"""Contract: each flow asks QEMU for its steps in the order that its golden image and its checks rely on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from guest_images.agent.counters import AgentCounters
from harness.codes import Code, Fields
from harness.deadline import Deadline
from harness.errors import SubjectFailed
from harness.guest.shell import GuestUnreachable
from harness.linux.run_queue import ThreadReading, thread_times
from harness.qemu import migration
from harness.qemu.disk import Disk
from harness.qemu.qmp import Event
from harness.qemu.ram import GoldenImage
from tests_functional.lib import save, stalls
from tests_functional.lib.guest import Guest
from tests_functional.lib.save import Acts, Flow, Snapshot
from tests_functional.lib.stalls import Stalls
from tests_unit.support.scenario_values import SOURCE, StandInAgent

_COMPLETED = {"status": "completed", "downtime": 4, "total-time": 90, "ram": {"normal": 60, "duplicate": 5}}
_BACKGROUND = [
    Flow.LIVE, Flow.LIVE_FILE, Flow.STOP_MIGRATE_CONT, Flow.STOP_MIGRATE_CONT_FILE,
]  # fmt: skip


class _Qemu:
    """Notes what is asked of QEMU, and behaves as QEMU does around a save."""

    pid = 0

    def __init__(self, folder: Path, log: list[str], resumes_itself: bool = False) -> None:
        self.qmp, self.folder, self.log, self.resumes_itself = self, folder, log, resumes_itself
        self.running, self.capabilities, self.events = True, dict[str, bool](), list[Event]()
        self.agent = StandInAgent(SOURCE)

    def mark(self) -> int:
        return len(self.events)

    def events_since(self, mark: int) -> list[Event]:
        return self.events[mark:]

    def alive(self) -> bool:
        return True

    def _set(self, running: bool) -> None:
        self.running = running
        self.events.append(Event("RESUME" if running else "STOP", {}, float(10 + len(self.events) ** 2)))

    def execute(self, command: str, arguments: dict[str, Any] | None = None, **_: object) -> object:
        match command:
            case "query-migrate-capabilities":
                names = ("background-snapshot", "mapped-ram")
                return [{"capability": name, "state": self.capabilities.get(name, False)} for name in names]
            case "migrate-set-capabilities":
                assert arguments
                (entry,) = arguments["capabilities"]
                self.capabilities[entry["capability"]] = entry["state"]
                self.log.append(f"{entry['capability']} {'on' if entry['state'] else 'off'}")
                return {}
            case "query-status":
                return {"status": "running" if self.running else "paused"}
            case "query-yank":
                return []
            case "migrate":
                assert arguments
                self.log.append(f"migrate {arguments['uri'].partition(':')[0]}")
                (self.folder / "vmstate").write_bytes(b"12345")
                if self.capabilities.get("background-snapshot") and self.running:
                    self._set(False)
                    self._set(True)
                elif self.resumes_itself:
                    self._set(True)
                return {}
        self.log.append(command)
        if command in ("stop", "cont"):
            self._set(command == "cont")
        return {}

    def query_migrate(self) -> dict[str, Any]:
        return _COMPLETED

    def wait_status(self, wanted: Any, deadline: Deadline, what: str) -> str:
        status = "running" if self.running else "paused"
        assert wanted(status), (what, deadline)
        self.log.append(f"is {status}")
        return status

    def failure(self, sentence: str, code: Code, fields: Fields | None = None) -> SubjectFailed:
        return SubjectFailed(f"{sentence}.", code=code, fields=fields or {})


@pytest.fixture
def log() -> list[str]:
    """Return the list of what happened, in order."""
    return []


@pytest.fixture
def process() -> Iterator[int]:
    """Yield the id of a process whose threads stay the same; those of the tests' own come and go."""
    with subprocess.Popen(["sleep", "600"]) as child:
        yield child.pid
        child.kill()


@pytest.fixture
def qemu(tmp_path: Path, log: list[str], process: int, monkeypatch: pytest.MonkeyPatch) -> _Qemu:
    """A QEMU whose dumps and statistics are noted too."""
    made = _Qemu(tmp_path, log)
    made.pid = process

    def dump(_machine: object, folder: Path) -> GoldenImage:
        log.append(f"dump {folder.name} {'running' if made.running else 'paused'}")
        return GoldenImage(folder, ())

    def end(
        _counters: object, resumed: float, readings: Sequence[ThreadReading], names: Mapping[int, str]
    ) -> Stalls:
        deadline = Deadline(5)
        while not readings:
            deadline.nap(0.001)
        return Stalls(int(resumed), 8, 7 if readings[-1].times.keys() == names.keys() else 0)

    monkeypatch.setattr(save, "dump_golden", dump)
    monkeypatch.setattr(save, "disk_of_snapshot", lambda _machine: None)
    monkeypatch.setattr(stalls, "begin", lambda *_: log.append("reset"))
    monkeypatch.setattr(stalls, "end", end)
    return made


def _take(flow: Flow, qemu: _Qemu, acts: Acts | None = None) -> Snapshot:
    steps = iter([(1, 2), (5, 6)])
    counters = cast(AgentCounters, SimpleNamespace(steps=lambda: next(steps)))
    guest = cast(Guest, SimpleNamespace(machine=qemu, agent=qemu.agent))
    return save.take(flow, guest, counters, qemu.folder, Deadline(5), acts or Acts())


_STEPS = {
    Flow.LIVE: ["migrate exec"],
    Flow.LIVE_FILE: ["migrate file"],
    Flow.STOP_MIGRATE_CONT: ["stop", "dump golden paused", "migrate exec", "cont"],
    Flow.STOP_MIGRATE_CONT_FILE: ["stop", "dump golden paused", "migrate file", "cont"],
    Flow.STOP_AND_SAVE: ["migrate-set-parameters", "stop", "migrate exec", "cont"],
    Flow.MAPPED_RAM: ["migrate-set-parameters", "stop", "dump golden paused", "migrate file", "cont"],
}


@pytest.mark.parametrize("flow", _STEPS, ids=lambda flow: flow.name)
def test_steps_of_a_flow(flow: Flow, qemu: _Qemu, log: list[str]) -> None:
    """RAM is dumped when the guest is stopped and before it is saved; a capability is on meanwhile only."""
    name = {Flow.STOP_AND_SAVE: None, Flow.MAPPED_RAM: "mapped-ram"}.get(flow, "background-snapshot")
    made = _take(flow, qemu)
    wanted = ["reset", *_STEPS[flow], "is running"]
    assert log == ([f"{name} on", *wanted, f"{name} off"] if name else wanted)
    assert (made.flow, made.path, made.size_bytes) == (flow, qemu.folder / "vmstate", 5)
    assert (made.steps_before, made.steps_completed) == ((1, 2), (5, 6))
    assert made.figures == migration.SaveFigures(4, 90, 60, 5)
    assert made.stun_ms == 1000.0
    assert (made.largest_stall_us, made.largest_gap_us) == (11, 8)
    if thread_times(qemu.pid):
        # QEMU's threads were read meanwhile.
        assert made.gap_waited_us == 7
    assert made.started_by_itself is False
    assert made.incoming == (("mapped-ram",) if flow is Flow.MAPPED_RAM else ())
    assert (made.golden is not None) == any(step.startswith("dump") for step in _STEPS[flow])
    assert made.state == ("running" if flow in (Flow.LIVE, Flow.LIVE_FILE) else "paused")
    assert not (qemu.folder / "slow").exists()


def test_guest_that_qemu_resumed_is_not_continued(qemu: _Qemu, log: list[str]) -> None:
    """QEMU 6.0 to 8.1 resume a stopped guest by themselves, which is told."""
    qemu.resumes_itself = True
    assert _take(Flow.STOP_MIGRATE_CONT, qemu).started_by_itself
    assert "cont" not in log


def test_acts_of_a_test(qemu: _Qemu, log: list[str]) -> None:
    """The act at T0 is done while the guest is stopped, the other one while the sink is slow."""

    def saving() -> None:
        log.append(f"saving {'slowly' if (qemu.folder / 'slow').exists() else 'fast'}")

    _take(Flow.STOP_MIGRATE_CONT, qemu, Acts(lambda: log.append("at T0"), saving))
    assert log[1:] == [
        "reset", "stop", "dump golden paused", "at T0", "migrate exec", "cont", "saving slowly",
        "is running", "background-snapshot off",
    ]  # fmt: skip
    assert not (qemu.folder / "slow").exists()


def test_act_is_done_after_t0(qemu: _Qemu, log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a running guest too: what the act changes must not be in the snapshot."""
    monkeypatch.setattr(migration, "wait_ram_moving", lambda *_: log.append("RAM moves"))
    _take(Flow.LIVE, qemu, Acts(saving=lambda: log.append("act")))
    assert log[2:-2] == ["migrate exec", "RAM moves", "act"]


def test_disk_of_a_snapshot_is_kept(qemu: _Qemu, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is restored with the guest's disk at T0."""
    disk = Disk(qemu.folder / "disk", "qcow2", 1 << 20)
    monkeypatch.setattr(save, "disk_of_snapshot", lambda machine: disk if machine is qemu else None)
    assert _take(Flow.LIVE, qemu).disk == disk


def test_slow_sink_ends_with_the_act(qemu: _Qemu) -> None:
    """An act that fails leaves no slow sink behind, and no capability on."""

    def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _take(Flow.LIVE, qemu, Acts(saving=fails))
    assert not (qemu.folder / "slow").exists()
    assert qemu.capabilities == {"background-snapshot": False}


def test_save_without_events_is_wrong(qemu: _Qemu, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save without STOP and RESUME is an error, since its T0 is not known."""
    monkeypatch.setattr(qemu, "events_since", lambda _mark: [])
    with pytest.raises(SubjectFailed) as caught:
        _take(Flow.LIVE, qemu)
    assert caught.value.code is Code.SAVE_NO_STUN


def test_guest_that_is_silent_after_the_save(qemu: _Qemu) -> None:
    """A completed save of a guest that answers no more has hung it."""
    qemu.agent = StandInAgent(GuestUnreachable("It does not answer."))
    with pytest.raises(SubjectFailed, match="does not answer: It does not answer") as caught:
        _take(Flow.LIVE, qemu)
    assert caught.value.code is Code.SAVE_GUEST_SILENT


def test_what_a_flow_is() -> None:
    """Each flow says whether the guest runs, and which golden image, capability and label it has."""
    assert [flow for flow in Flow if flow.background] == _BACKGROUND
    assert [flow for flow in Flow if not flow.golden] == [Flow.LIVE, Flow.LIVE_FILE, Flow.STOP_AND_SAVE]
    capabilities = {Flow.STOP_AND_SAVE: None, Flow.MAPPED_RAM: "mapped-ram"}
    assert all(flow.capability == capabilities.get(flow, "background-snapshot") for flow in Flow)
    assert [flow.label for flow in Flow] == [
        "live", "live-file", "stopped", "seeds", "seeds-file", "stop-and-save", "mapped-ram",
    ]  # fmt: skip


def test_restore_of_a_snapshot(qemu: _Qemu, log: list[str]) -> None:
    """The destination has the capabilities of the file, and opens it itself where it must seek."""
    path = qemu.folder / "vmstate"
    machine = cast(Any, qemu)
    assert save.restore_uri(machine, _take(Flow.LIVE, qemu)) == f"exec:cat {path}"
    mapped = _take(Flow.MAPPED_RAM, qemu)
    log.clear()
    assert save.restore_uri(machine, mapped) == f"file:{path}"
    assert log == ["mapped-ram on"]


def test_sample_of_a_stun(qemu: _Qemu, log: list[str]) -> None:
    """A sample is a live save into nothing, in milliseconds."""
    guest = cast(Guest, SimpleNamespace(machine=qemu, agent=qemu.agent))
    assert save.sample_stun(guest, Deadline(5)) == 1000.0
    assert log == ["background-snapshot on", "migrate exec", "background-snapshot off"]
