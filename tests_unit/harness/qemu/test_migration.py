"""Contract: a save's sink loses nothing; a capability is put back; refusals are given in QEMU's words."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.codes import Code, Fields
from harness.deadline import PATIENCE_VARIABLE, Deadline
from harness.errors import HostTooBusy, NotApplicable, SetupBroken, SubjectFailed
from harness.linux.run_queue import ProcessorTime
from harness.qemu import migration
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.machine import Machine
from harness.qemu.qmp import CommandRefused, Event

_BYTES = (5 << 20) + 5


def test_slow_sink_takes_all_in_its_time(tmp_path: Path) -> None:
    """Every byte in its order, in pieces with a pause after each, and nothing is left beside the file."""
    path, sign, content = tmp_path / "a file", tmp_path / "a sign", os.urandom(_BYTES)
    sign.touch()
    command = migration.slow_sink(path, sign).removeprefix("exec:")
    begun = time.monotonic()
    subprocess.run(["/bin/sh", "-c", command], input=content, check=True, timeout=60)
    assert time.monotonic() - begun >= 1.0
    assert path.read_bytes() == content
    assert sorted(tmp_path.iterdir()) == [path, sign]


def test_slow_sink_makes_haste_once_the_sign_is_gone(tmp_path: Path) -> None:
    """The sink reads the rest at full speed once its file is gone, and loses nothing."""
    path, sign, content = tmp_path / "a file", tmp_path / "a sign", os.urandom(64 << 20)
    sign.touch()
    command = migration.slow_sink(path, sign).removeprefix("exec:")
    with subprocess.Popen(["/bin/sh", "-c", command], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(content[: 2 << 20])
        sign.unlink()
        begun = time.monotonic()
        process.stdin.write(content[2 << 20 :])
        process.stdin.close()
        assert process.wait(60) == 0
    assert time.monotonic() - begun < 4
    assert path.read_bytes() == content


class _StubQemu:
    """Answers the QMP commands of a save; `refused` names those that QEMU refuses."""

    def __init__(self, refused: tuple[str, ...] = ()) -> None:
        self.qmp = self
        self.refused = refused
        self.on = False

    def execute(self, command: str, arguments: dict[str, Any] | None = None, **_: object) -> object:
        if command in self.refused:
            raise CommandRefused(command, "There's a migration process in progress")
        if command == "query-migrate-capabilities":
            return [{"capability": "background-snapshot", "state": self.on}]
        if command == "migrate-set-capabilities" and arguments:
            self.on = arguments["capabilities"][0]["state"]
        return {}

    def alive(self) -> bool:
        return True


def _machine(stub: _StubQemu) -> Machine:
    return cast(Machine, stub)


def test_capability_is_on_within_the_block_only() -> None:
    """It is off again after the block."""
    stub = _StubQemu()
    with migration.capability_on(_machine(stub), migration.BACKGROUND_SNAPSHOT):
        assert stub.on
    assert not stub.on


def test_capability_is_off_after_an_error() -> None:
    """An error in the block is passed on, and the capability is off."""
    stub = _StubQemu()
    with (
        pytest.raises(ZeroDivisionError),
        migration.capability_on(_machine(stub), migration.BACKGROUND_SNAPSHOT),
    ):
        raise ZeroDivisionError
    assert not stub.on


def test_error_of_a_save_is_not_hidden_by_a_refusal() -> None:
    """QEMU refuses to switch the capability off while a save hangs; the save's own error counts."""
    stub = _StubQemu()
    with (
        pytest.raises(SubjectFailed, match="hangs"),
        migration.capability_on(_machine(stub), migration.BACKGROUND_SNAPSHOT),
    ):
        stub.refused = ("migrate-set-capabilities",)
        raise SubjectFailed("The save hangs.")


def test_refusal_is_returned_in_the_words_of_qemu() -> None:
    """Trying gives the words of a refusal, and nothing where QEMU obeys."""
    refusing = _StubQemu(("migrate-set-capabilities", "migrate"))
    words = "There's a migration process in progress"
    name = migration.BACKGROUND_SNAPSHOT
    assert migration.try_set_capability(_machine(refusing), name, True) == words
    assert migration.try_start_save(_machine(refusing), "exec:cat") == words
    assert migration.try_set_capability(_machine(_StubQemu()), name, True) == ""
    assert migration.try_start_save(_machine(_StubQemu()), "exec:cat") == ""


class _Scripted:
    """A QEMU that gives the scripted answers to `query-migrate` in turn, the last for ever."""

    def __init__(self, *answers: dict[str, Any], yank: Sequence[object] = ()) -> None:
        self.qmp, self.pid = self, None
        self.answers, self.asked, self.pauses, self.yank = list(answers), 0, 0, list(yank)
        self.events: list[Event] = []

    def query_migrate(self) -> dict[str, Any]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def execute(self, command: str, *_: object, **__: object) -> object:
        assert command == "query-yank"
        if not self.yank:
            raise CommandRefused(command, "The command query-yank has not been found")
        return self.yank.pop(0)

    def failure(self, sentence: str, code: Code, fields: Fields | None = None) -> SubjectFailed:
        return SubjectFailed(f"{sentence}.", code=code, fields=fields or {})

    def pause(self, deadline: Deadline, seconds: float = 0.01) -> None:
        assert 0.001 <= seconds <= 0.01, "neither a busy loop nor an end that is seen late"
        self.pauses += 1
        deadline.nap(seconds)

    def events_since(self, mark: int) -> list[Event]:
        return self.events[mark:]


def _scripted(*answers: dict[str, Any], **more: Any) -> Any:
    return _Scripted(*answers, **more)


def _active(normal: int, duplicate: int) -> dict[str, Any]:
    return {"status": "active", "ram": {"normal": normal, "duplicate": duplicate}}


_COMPLETED = {"status": "completed", "downtime": 4, "total-time": 90, "ram": {"normal": 60, "duplicate": 5}}


@pytest.mark.parametrize(("normal", "duplicate"), [(1, 0), (0, 1)])
def test_ram_moves_with_the_first_page(normal: int, duplicate: int) -> None:
    """T0 is past when one page was sent, with content or as a zero page, and not before."""
    machine = _scripted({"status": "setup"}, _active(0, 0), _active(normal, duplicate))
    migration.wait_ram_moving(machine, Deadline(5))
    assert (machine.asked, machine.pauses) == (3, 2)


@pytest.mark.parametrize("ram", [{"normal": 1}, {"duplicate": 1}])
def test_counter_that_is_not_given_is_zero(ram: dict[str, int]) -> None:
    """One page is one page, whether or not QEMU names the other kind."""
    machine = _scripted({"status": "active"}, {"status": "active", "ram": ram}, _active(9, 9))
    migration.wait_ram_moving(machine, Deadline(5))
    assert machine.asked == 2


def test_ram_of_a_completed_save_has_moved() -> None:
    """A save that has completed already has nothing to be waited for."""
    migration.wait_ram_moving(_scripted({"status": "completed"}), Deadline(0))


def test_figures_are_those_of_qemu() -> None:
    """Each figure is the one that QEMU reports under its name, once the save has completed."""
    machine = _scripted(_active(3, 0), _COMPLETED)
    assert migration.wait_completed(machine, Deadline(5)) == migration.SaveFigures(4, 90, 60, 5)
    assert machine.pauses == 1


@pytest.mark.parametrize("wait", [migration.wait_ram_moving, migration.wait_completed])
@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_save_that_failed_is_not_waited_for(wait: Callable[[Any, Deadline], object], status: str) -> None:
    """A save that ended otherwise is a failure of QEMU, in its words."""
    machine = _scripted({"status": status, "error-desc": "No space left"})
    with pytest.raises(SubjectFailed, match=f"ended as '{status}': No space left") as caught:
        wait(machine, Deadline(5))
    assert caught.value.code is Code.SAVE_FAILED
    assert caught.value.fields["status"] == status


@pytest.mark.parametrize("wait", [migration.wait_ram_moving, migration.wait_completed])
def test_save_that_does_not_end(wait: Callable[[Any, Deadline], object]) -> None:
    """A save that makes no progress ends the wait with the deadline."""
    with pytest.raises(SubjectFailed, match="still 'active'") as caught:
        wait(_scripted(_active(0, 0)), Deadline(0.02))
    assert (caught.value.code, caught.value.fields) == (Code.SAVE_UNFINISHED, {"status": "active"})


@pytest.mark.parametrize(("ran", "busy"), [(49, True), (50, False)])
def test_save_that_sends_nothing_on_a_busy_host(
    monkeypatch: pytest.MonkeyPatch, ran: int, busy: bool
) -> None:
    """A QEMU that got less than half of the processor time that it wanted since then is not blamed."""
    machine = _scripted(_active(0, 0))
    machine.pid = 77
    times = iter([ProcessorTime(1_000, 9_000), ProcessorTime(1_000 + ran, 9_100 - ran)])
    monkeypatch.setattr(migration, "processor_time", lambda pid: next(times) if pid == 77 else None)
    with pytest.raises(HostTooBusy if busy else SubjectFailed, match="still 'active' without") as caught:
        migration.wait_ram_moving(machine, Deadline(0.02))
    assert ("QEMU got 49% of the processor time that it wanted" in caught.value.sentence) == busy


def test_save_that_is_slow() -> None:
    """A save that still sends pages is no fault of QEMU, unless it has sent more than there are."""
    total = {"total": 100 * TARGET_PAGE_BYTES, "page-size": TARGET_PAGE_BYTES}
    answers = [{"status": "active", "ram": {"normal": pages, **total}} for pages in range(1, 4)]
    with pytest.raises(HostTooBusy, match=r"after 0 s, with 3 of 100 pages sent, and goes on"):
        migration.wait_completed(_scripted(*answers), Deadline(0.2))
    looping = [{"status": "active", "ram": {"normal": pages, **total}} for pages in range(99, 102)]
    with pytest.raises(SubjectFailed) as caught:
        migration.wait_completed(_scripted(*looping), Deadline(0.2))
    assert caught.value.code is Code.SAVE_UNFINISHED


def test_save_that_has_stopped_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that were sent long before the deadline do not excuse a save that hangs."""
    monkeypatch.setattr(migration, "_PROGRESS_SECONDS", 0.02)
    ram = {"normal": 5, "duplicate": 1, "total": 100 * TARGET_PAGE_BYTES, "page-size": TARGET_PAGE_BYTES}
    with pytest.raises(SubjectFailed) as caught:
        migration.wait_completed(_scripted({"status": "active", "ram": ram}), Deadline(0.1))
    assert caught.value.code is Code.SAVE_UNFINISHED


@pytest.mark.parametrize(("patience", "wrong"), [("1", SubjectFailed), ("100", HostTooBusy)])
def test_pause_that_excuses_a_save_grows_with_patience(
    patience: str, wrong: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a host that is slower by a factor, a page may be that much longer ago."""
    monkeypatch.setattr(migration, "_PROGRESS_SECONDS", 0.02)
    ram = {"normal": 5, "duplicate": 1, "total": 100 * TARGET_PAGE_BYTES, "page-size": TARGET_PAGE_BYTES}
    limit = Deadline(0.1)
    monkeypatch.setenv(PATIENCE_VARIABLE, patience)
    with pytest.raises(wrong):
        migration.wait_completed(_scripted({"status": "active", "ram": ram}), limit)


def test_save_is_not_blamed_for_slow_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only answers tell whether a save goes on, not how long snapproof takes for the words of its error."""
    monkeypatch.setattr(migration, "_PROGRESS_SECONDS", 0.05)
    total = {"total": 100 * TARGET_PAGE_BYTES, "page-size": TARGET_PAGE_BYTES}
    machine = _scripted({"status": "active", "ram": {"normal": 7, **total}})
    failure = machine.failure

    def slow_failure(*words: Any) -> SubjectFailed:
        time.sleep(0.1)
        return cast(SubjectFailed, failure(*words))

    monkeypatch.setattr(machine, "failure", slow_failure)
    with pytest.raises(HostTooBusy):
        migration.wait_completed(machine, Deadline(0))


def test_clean_up_is_waited_for() -> None:
    """QEMU is ready for another save when no yank instance is of a migration; other instances may stay."""
    other, of_migration = {"type": "chardev"}, {"type": "migration"}
    machine = _scripted(_COMPLETED, yank=[[other, of_migration], [of_migration], [other]])
    migration.wait_completed(machine, Deadline(5))
    assert (machine.yank, machine.pauses) == ([], 2)
    with pytest.raises(SubjectFailed) as caught:
        migration.wait_cleaned_up(_scripted(yank=[[of_migration]] * 100), Deadline(0.02))
    assert caught.value.code is Code.SAVE_NOT_CLEANED_UP


def _event(name: str, seconds: float) -> Event:
    return Event(name, {}, seconds)


@pytest.mark.parametrize(
    ("events", "stun"),
    [
        ([], None),
        ([("STOP", 2)], None),
        ([("RESUME", 2)], None),
        ([("RESUME", 1), ("STOP", 2)], None),
        ([("STOP", 2), ("RESUME", 5)], (2, 5)),
        ([("RESUME", 1), ("STOP", 2), ("MIGRATION", 3), ("RESUME", 5), ("RESUME", 9)], (2, 5)),
        ([("STOP", 2), ("STOP", 4), ("RESUME", 5)], (2, 5)),
        ([("STOP", 2), ("RESUME", 5), ("STOP", 7), ("RESUME", 8)], (2, 5)),
    ],
)
def test_stun_is_from_the_first_stop_to_the_next_resume(
    events: list[tuple[str, float]], stun: tuple[float, float] | None
) -> None:
    """Events before the first STOP, of another kind, and after its RESUME do not count."""
    machine = _scripted()
    machine.events = [_event("STOP", 0), *(_event(*event) for event in events)]
    found = migration.find_stun(machine, 1)
    assert (found and (found.stopped, found.resumed)) == stun
    assert found is None or found.seconds == 3


class _Recording(_StubQemu):
    """Records what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, dict[str, Any] | None, object]] = []

    def execute(self, command: str, arguments: dict[str, Any] | None = None, **more: object) -> object:
        self.told.append((command, arguments, more.get("deadline")))
        return []


def test_only_the_sink_limits_the_speed_of_a_save() -> None:
    """No sink takes a TiB in a second; 0 would mean "no limit" to some QEMUs and be refused by others."""
    stub = _Recording()
    migration.lift_bandwidth_limit(_machine(stub))
    assert stub.told == [("migrate-set-parameters", {"max-bandwidth": 1 << 40}, None)]


def test_clean_up_is_asked_for_within_the_deadline() -> None:
    """A main loop that hangs does not answer, so the question ends with the caller's time."""
    stub, deadline = _Recording(), Deadline(5)
    migration.wait_cleaned_up(_machine(stub), deadline)
    assert stub.told == [("query-yank", None, deadline)]


class _Saving(_Scripted):
    """Takes `migrate` too."""

    def execute(self, command: str, *_: object, **__: object) -> object:
        return {} if command == "migrate" else super().execute(command)


def test_begun_save_is_past_t0() -> None:
    """It returns when the first page was sent, so that what the guest writes from then on is newer."""
    machine: Any = _Saving(_active(0, 0), _active(0, 0), _active(1, 0), _active(9, 9))
    migration.begin_save(machine, "exec:cat", Deadline(5))
    assert machine.asked == 3


def test_figures_of_a_whole_save() -> None:
    """A save is begun and waited for in one step."""
    machine: Any = _Saving(_active(3, 0), _COMPLETED)
    assert migration.complete_save(machine, "exec:cat", Deadline(5)) == migration.SaveFigures(4, 90, 60, 5)


def test_unknown_capability_is_a_skip() -> None:
    """It is not even asked for: QEMU's refusal would not tell it from one for another reason."""
    stub = _StubQemu()
    with pytest.raises(NotApplicable, match="has no capability 'mapped-ram'"):
        migration.require_capability(_machine(stub), migration.MAPPED_RAM)
    assert not stub.on


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("background-snapshot", "QEMU refuses background-snapshot on this host: No. The kernel is too old."),
        ("events", "QEMU refuses events on this host: No."),
    ],
)
def test_refused_capability_is_a_skip_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, name: str, sentence: str
) -> None:
    """QEMU does not say what the kernel lacks, so our own probe does, for this capability alone."""

    def execute(command: str, _arguments: object = None) -> list[dict[str, Any]]:
        if command == "migrate-set-capabilities":
            raise CommandRefused(command, "No.")
        return [{"capability": name, "state": False}]

    machine = cast(Machine, SimpleNamespace(qmp=SimpleNamespace(execute=execute)))
    monkeypatch.setattr(
        migration, "probe_userfaultfd", lambda: SimpleNamespace(reason="The kernel is too old.")
    )
    with pytest.raises(NotApplicable) as caught:
        migration.require_capability(machine, name)
    assert caught.value.sentence == sentence
    assert (caught.value.code, caught.value.fields) == (Code.CAPABILITY_REFUSED, {"capability": name})


@pytest.mark.parametrize(
    "reason",
    ["Parameter 'uri' expects a valid migration protocol", "unknown migration protocol: file:x"],
)
def test_unknown_transport_is_a_skip(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """In the words of old and new QEMUs; any other refusal is not."""
    stub = _StubQemu()

    def refuse(command: str, *_: object) -> None:
        raise CommandRefused(command, reason)

    monkeypatch.setattr(stub, "execute", refuse)
    with pytest.raises(NotApplicable, match="no migration transport 'file:'"):
        migration.start_save(_machine(stub), "file:/a:b")
    with pytest.raises(CommandRefused):
        migration.start_save(_machine(_StubQemu(("migrate",))), "file:/a:b")


class _Incoming(_Scripted):
    """A QEMU that loads a stream: its status is "inmigrate" until it has asked as often as it has answers."""

    def __init__(self, *answers: dict[str, Any], refused: str = "") -> None:
        super().__init__(*answers)
        self.refused, self.told = refused, list[object]()

    def execute(self, command: str, *arguments: object, **_: object) -> object:
        self.told.append((command, *arguments))
        if self.refused == command:
            raise CommandRefused(command, "Load of migration failed")
        return {}

    def query_migrate(self) -> dict[str, Any]:
        if self.refused == "query-migrate":
            raise CommandRefused("query-migrate", "Not now")
        return super().query_migrate()

    def wait_status(self, wanted: Callable[[str], bool], deadline: Deadline, _what: str) -> str:
        seen = ["inmigrate"] * 3 + ["paused"]
        return next(status for status in seen if wanted(status) and not deadline.expired)


@pytest.mark.parametrize("refused", ["", "query-migrate"])
def test_restored_guest_is_in_its_state(refused: str) -> None:
    """The state after the load; some QEMUs do not answer `query-migrate` meanwhile."""
    machine: Any = _Incoming({"status": "active"}, refused=refused)
    deadline = Deadline(5)
    assert migration.restore(machine, "exec:cat x", deadline) == "paused"
    assert machine.told == [("migrate-incoming", {"uri": "exec:cat x"}, deadline)]


@pytest.mark.parametrize(
    ("machine", "sentence"),
    [
        (_Incoming({}, refused="migrate-incoming"), "refused to restore: Load of migration failed"),
        (_Incoming({"status": "failed", "error-desc": "Bad magic"}), "The restore failed: Bad magic"),
        (_Incoming({"status": "failed"}), "The restore failed: QEMU gives no reason"),
    ],
)
def test_restore_that_fails(machine: Any, sentence: str) -> None:
    """At once, or later: QEMU does not take the file, in its own words."""
    with pytest.raises(SubjectFailed, match=sentence) as caught:
        migration.restore(machine, "exec:cat", Deadline(5))
    assert caught.value.code is Code.RESTORE_FAILED


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        ({"status": "completed"}, SetupBroken, "It proves nothing."),
        ({}, SetupBroken, "It proves nothing."),
        ({"status": "failed", "error-desc": "No space"}, SubjectFailed, "ended as 'failed': No space"),
        ({"status": "cancelled"}, SubjectFailed, "ended as 'cancelled': QEMU gives no reason"),
    ],
)
def test_save_that_is_no_longer_under_way(
    answer: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    """One that was too fast proves nothing; one that has failed is QEMU's doing."""
    with pytest.raises(error, match=sentence):
        migration.require_under_way(cast(Any, _Incoming(answer)), "It proves nothing.")


def test_save_that_is_under_way() -> None:
    """RAM is being saved."""
    migration.require_under_way(cast(Any, _Incoming({"status": "active"})), "It proves nothing.")
