"""Contract: each way of saving asks QEMU for its steps in order; its time ends where the guest runs again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.codes import Code, Fields
from harness.deadline import Deadline
from harness.errors import SubjectFailed
from harness.qemu import migration
from harness.qemu.machine import Machine
from harness.qemu.qmp import CommandRefused, Event
from tests_functional.lib.measure import saves
from tests_functional.lib.measure.cases import UNLIMITED, Sink, Way, Writer, throttled, why_not
from tests_functional.lib.measure.saves import Saved, prepare, save, sink_uri, snapshot_bytes

_COMPLETED = {"status": "completed", "downtime": 4, "total-time": 90, "ram": {"normal": 60, "duplicate": 5}}
_MIB = 1 << 20


class _Qemu:
    """Notes what is asked of QEMU, and ends a save with these events."""

    def __init__(self, path: Path, *events: Event, grows_to: int = 5, refuses: str = "") -> None:
        self.qmp, self.path, self.log, self.refuses = self, path, list[str](), refuses
        self.config = SimpleNamespace(ram_mib=1)
        self.ending, self.grows_to = list(events), grows_to
        self.events: list[Event] = []
        self.said: Any = ""
        self.jobs: list[dict[str, Any]] = [{"id": "snapproof-save"}, {"id": "other", "error": "Not ours."}]
        self.nodes: list[dict[str, Any]] = []
        self.pauses = 0

    def mark(self) -> int:
        return len(self.events)

    def events_since(self, mark: int) -> list[Event]:
        return self.events[mark:]

    def alive(self) -> bool:
        return True

    def wait_event(
        self, wanted: Callable[[Event], bool], mark: int, _deadline: Deadline, _what: str
    ) -> Event:
        self.events += self.ending
        self.log.append("wait")
        return next(event for event in self.events_since(mark) if wanted(event))

    def pause(self, _deadline: Deadline, _seconds: float = 0.0) -> None:
        self.pauses += 1
        if self.pauses == 3:
            self.events += self.ending

    def execute(
        self, command: str, arguments: dict[str, Any] | None = None, *_: object, **_more: object
    ) -> Any:
        given = arguments or {}
        match command:
            case "query-migrate-capabilities":
                return [{"capability": name, "state": False} for name in ("background-snapshot", "events")]
            case "migrate-set-capabilities":
                self.log.append(f"{given['capabilities'][0]['capability']} on")
                return {}
            case "query-yank":
                return []
            case "query-jobs":
                return self.jobs
            case "query-named-block-nodes":
                return self.nodes
            case "migrate":
                self.log.append(f"migrate {given['uri'].partition(':')[0]}")
                self.path.write_bytes(bytes(self.grows_to))
                return {}
            case "snapshot-save" if self.refuses:
                raise CommandRefused("snapshot-save", self.refuses)
        self.log.append(command)
        return self.said if command == "human-monitor-command" else {}

    def query_migrate(self) -> dict[str, Any]:
        return _COMPLETED

    def failure(
        self, sentence: str, code: Code = Code.SNAPSHOT_WRONG, fields: Fields | None = None
    ) -> SubjectFailed:
        return SubjectFailed(f"{sentence}.", code=code, fields=fields or {})


def _machine(qemu: _Qemu) -> Machine:
    return cast(Machine, qemu)


def _migration(status: str) -> Event:
    return Event("MIGRATION", {"status": status}, 1.0)


def _job(status: str, name: str = "snapproof-save") -> Event:
    return Event("JOB_STATUS_CHANGE", {"id": name, "status": status}, 1.0)


@pytest.mark.parametrize(
    ("way", "steps"),
    [
        (Way.BACKGROUND_EXEC, ["migrate exec", "wait"]),
        (Way.BACKGROUND_FILE, ["migrate file", "wait"]),
        (Way.STOP_AND_SAVE, ["stop", "migrate exec", "wait", "cont"]),
        (Way.PRECOPY_FILE, ["migrate exec", "wait", "cont"]),
    ],
)
def test_steps_of_a_way(tmp_path: Path, way: Way, steps: list[str]) -> None:
    """A background snapshot needs no cont, since the guest never stopped for it."""
    qemu = _Qemu(tmp_path / "vmstate", _migration("active"), _migration("completed"))
    saved = save(way, _machine(qemu), qemu.path, UNLIMITED, Deadline(5))
    assert qemu.log == steps
    assert (saved.downtime_ms, saved.total_ms, saved.given_up) == (4, 90, False)
    assert 0 <= saved.seconds < 5


@pytest.mark.parametrize(
    ("way", "steps"),
    [
        (Way.BACKGROUND_EXEC, ["events on", "background-snapshot on"]),
        (Way.BACKGROUND_FILE, ["events on", "background-snapshot on"]),
        (Way.STOP_AND_SAVE, ["events on", "migrate-set-parameters"]),
        (Way.PRECOPY_FILE, ["events on", "migrate-set-parameters"]),
        (Way.SAVEVM, ["events on", "migrate-set-parameters"]),
    ],
)
def test_preparation_of_a_way(tmp_path: Path, way: Way, steps: list[str]) -> None:
    """Other saves are not held back by QEMU's limit of bandwidth."""
    qemu = _Qemu(tmp_path / "vmstate")
    prepare(_machine(qemu), way)
    assert qemu.log == steps


def test_cont_counts_where_the_guest_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is that to the end of the save, or to where the guest runs again."""
    clock = iter([100.0, 103.0, 107.0])
    monkeypatch.setattr(saves, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(migration, "wait_completed", lambda *_: SimpleNamespace(downtime_ms=1, total_ms=2))
    qemu = _Qemu(tmp_path / "vmstate", _migration("completed"))
    assert save(Way.STOP_AND_SAVE, _machine(qemu), qemu.path, UNLIMITED, Deadline(5)).seconds == 7.0
    clock = iter([100.0, 103.0, 107.0])
    assert save(Way.BACKGROUND_EXEC, _machine(qemu), qemu.path, UNLIMITED, Deadline(5)).seconds == 3.0


@pytest.mark.parametrize(
    ("event", "over"),
    [
        (_migration("completed"), True),
        (_migration("failed"), True),
        (_migration("cancelled"), True),
        (_migration("active"), False),
        (_migration("pre-switchover"), False),
        (Event("MIGRATION", {}, 1.0), False),
        (Event("STOP", {"status": "completed"}, 1.0), False),
    ],
)
def test_end_of_a_save(event: Event, over: bool) -> None:
    """A failed or cancelled save has ended too."""
    assert saves._save_over(event) == over


@pytest.mark.parametrize(
    ("size", "given_up"), [(3 * _MIB, False), (3 * _MIB + 1, True), (9 * _MIB, True), (0, False)]
)
def test_pre_copy_without_end(tmp_path: Path, size: int, given_up: bool) -> None:
    """A file of more than three times guest RAM: the guest is stopped, so that the save ends."""
    qemu = _Qemu(tmp_path / "vmstate", _migration("completed"), grows_to=size)
    saved = save(Way.PRECOPY_FILE, _machine(qemu), qemu.path, UNLIMITED, Deadline(5))
    assert saved.given_up == given_up
    assert qemu.log == ["migrate exec", *(["stop"] if given_up else []), "wait", "cont"]


def test_end_of_a_pre_copy_is_seen(tmp_path: Path) -> None:
    """Before its file is there, after its end, and after the time limit nothing is stopped."""
    qemu = _Qemu(tmp_path / "vmstate", _migration("completed"))
    assert not saves._stop_endless(_machine(qemu), qemu.path, 0, Deadline(5))
    assert qemu.pauses == 3
    qemu = _Qemu(tmp_path / "vmstate")
    qemu.path.write_bytes(bytes(9 * _MIB))
    assert not saves._stop_endless(_machine(qemu), qemu.path, 0, Deadline(0))
    qemu.events = [_migration("completed")]
    assert not saves._stop_endless(_machine(qemu), qemu.path, 0, Deadline(5))
    assert saves._stop_endless(_machine(qemu), qemu.path, 1, Deadline(5))
    assert qemu.log == ["stop"]


def test_pre_copy_of_a_qemu_that_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for; the caller finds out why."""
    qemu = _Qemu(tmp_path / "vmstate")
    monkeypatch.setattr(qemu, "pause", lambda *_: 139)
    assert not saves._stop_endless(_machine(qemu), qemu.path, 0, Deadline(5))


def test_uri_of_a_sink(tmp_path: Path) -> None:
    """An unlimited sink is a plain command; a throttled one is our program, with the rate and the file."""
    path = tmp_path / "a file"
    assert sink_uri(path, UNLIMITED).startswith("exec:cat")
    uri = sink_uri(path, throttled(2.5))
    assert uri.startswith("exec:") and "throttle.py 2.5 > " in uri and uri.endswith(f"'{path}'")


def test_savevm_as_a_job(tmp_path: Path) -> None:
    """The job's end is waited for, and the job is dismissed."""
    qemu = _Qemu(tmp_path / "vmstate", _job("running"), _job("concluded", "other"), _job("concluded"))
    saved = save(Way.SAVEVM, _machine(qemu), qemu.path, UNLIMITED, Deadline(5))
    assert qemu.log == ["snapshot-save", "wait", "job-dismiss"]
    assert (saved.downtime_ms, saved.total_ms, saved.given_up) == (None, None, False)
    assert 0 <= saved.seconds < 5


@pytest.mark.parametrize(
    ("event", "over"),
    [
        (_job("concluded"), True),
        (_job("pending"), False),
        (_job("concluded", "other"), False),
        (Event("STOP", {"id": "snapproof-save", "status": "concluded"}, 1.0), False),
    ],
)
def test_end_of_a_job(event: Event, over: bool) -> None:
    """Only our own job's, and only when it can be asked for its error."""
    assert saves._job_over(event) == over


def test_savevm_job_that_failed(tmp_path: Path) -> None:
    """A concluded job with an error has saved nothing."""
    qemu = _Qemu(tmp_path / "vmstate", _job("concluded"))
    qemu.jobs[0]["error"] = "No space left on device"
    with pytest.raises(SubjectFailed, match="could not save the guest into its disk: No space left"):
        save(Way.SAVEVM, _machine(qemu), qemu.path, UNLIMITED, Deadline(5))


def test_savevm_by_the_human_monitor(tmp_path: Path) -> None:
    """A QEMU without the job has the old command, whose only answer is an error."""
    missing = "The command snapshot-save has not been found"
    qemu = _Qemu(tmp_path / "vmstate", refuses=missing)
    qemu.said = "\r\n"
    saved = save(Way.SAVEVM, _machine(qemu), qemu.path, UNLIMITED, Deadline(5))
    assert (qemu.log, saved) == (["human-monitor-command"], Saved(saved.seconds, None, None))
    assert 0 <= saved.seconds < 5
    qemu.said = "Error: No block device can accept snapshots\r\n"
    with pytest.raises(SubjectFailed, match="refused 'savevm': Error: No block device can accept"):
        save(Way.SAVEVM, _machine(qemu), qemu.path, UNLIMITED, Deadline(5))


def test_savevm_that_is_refused_for_another_reason(tmp_path: Path) -> None:
    """The old command would be refused too, and its answer would be another one."""
    qemu = _Qemu(tmp_path / "vmstate", refuses="No such node")
    with pytest.raises(CommandRefused):
        save(Way.SAVEVM, _machine(qemu), qemu.path, UNLIMITED, Deadline(5))
    assert qemu.log == []


def test_size_of_the_state_in_a_disk(tmp_path: Path) -> None:
    """That of our snapshot, in whichever node it is; a disk without it is a failure."""
    qemu = _Qemu(tmp_path / "vmstate")
    other, ours = (
        {"name": name, "vm-state-size": size} for name, size in (("other", 7), ("snapproof", 4711))
    )
    qemu.nodes = [
        {},
        {"image": {}},
        {"image": {"snapshots": [other]}},
        {"image": {"snapshots": [other, ours]}},
    ]
    assert snapshot_bytes(_machine(qemu)) == 4711
    qemu.nodes = qemu.nodes[:3]
    with pytest.raises(SubjectFailed, match="not in the disk"):
        snapshot_bytes(_machine(qemu))


def test_ways() -> None:
    """Two are background snapshots, and savevm alone makes no stream."""
    assert [way for way in Way if way.background] == [Way.BACKGROUND_EXEC, Way.BACKGROUND_FILE]
    assert [way for way in Way if not way.makes_stream] == [Way.SAVEVM]


def test_ways_that_cannot_be_slowed_down() -> None:
    """Those in which QEMU writes the file itself."""
    assert not any(why_not(way, UNLIMITED) for way in Way)
    assert [way for way in Way if why_not(way, throttled(40))] == [Way.BACKGROUND_FILE, Way.SAVEVM]
    assert (throttled(40), UNLIMITED) == (Sink("throttled", 40), Sink("unlimited", 0))
    assert len(Writer) == 4
