"""Contract: each thing says what must become of it, and its commands are counted as given and as refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken, SubjectFailed
from harness.qemu.machine import Machine
from harness.qemu.qmp import CommandRefused
from tests_functional.during_save import mid_save, migrations
from tests_functional.during_save.thing import Place, commands, in_turn, refused_words
from tests_functional.during_save.things import THINGS
from tests_functional.lib.guest import Guest
from tests_functional.run_states.states import RUN_STATES

_SCHEMA = [
    {"name": "migrate-set-parameters", "meta-type": "command", "arg-type": "1"},
    {"name": "1", "meta-type": "object", "members": [{"name": "mode", "type": "2"}]},
    {"name": "2", "meta-type": "enum", "values": ["normal", "cpr-reboot"]},
]


class _Qmp:
    """A QMP session that refuses some commands and gives jobs the statuses of a list, one after the other."""

    def __init__(self, refused: Mapping[str, str], statuses: list[str], error: str = "") -> None:
        self.refused, self.statuses, self.error = refused, statuses, error
        self.given: list[tuple[str, Any]] = []

    def execute(self, command: str, arguments: Any = None, _deadline: Deadline | None = None) -> Any:
        if command in self.refused:
            raise CommandRefused(command, self.refused[command])
        if command == "query-jobs":
            status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
            return [{"id": "other", "status": "running"}, {"id": "job", "status": status, **self._error()}]
        self.given.append((command, arguments))
        if command == "human-monitor-command":
            return {"savevm x": "Error: no\r\n", "info x": "all is well\r\n"}[arguments["command-line"]]
        return _SCHEMA if command == "query-qmp-schema" else {}

    def _error(self) -> dict[str, str]:
        return {"error": self.error} if self.error else {}


def _place(
    folder: Path, refused: Mapping[str, str] | None = None, statuses: str = "concluded", error: str = ""
) -> tuple[Place, _Qmp]:
    qmp = _Qmp(refused or {}, statuses.split(), error)
    guest = cast(Guest, SimpleNamespace(machine=cast(Machine, SimpleNamespace(qmp=qmp))))
    return Place(guest, folder, Deadline(1)), qmp


def test_commands_are_given_in_order(tmp_path: Path) -> None:
    """A refusal does not end the thing."""
    place, qmp = _place(tmp_path, {"cont": "No."})
    in_turn(commands(("stop", {}), ("cont", {})), commands(("quit", {"x": 1})))(place)
    assert qmp.given == [("stop", {}), ("quit", {"x": 1})]
    assert [(answer.command, answer.refusal) for answer in place.answers] == [
        ("stop", ""),
        ("cont", "No."),
        ("quit", ""),
    ]


def test_refusal_without_words(tmp_path: Path) -> None:
    """It is a refusal all the same."""
    place, _ = _place(tmp_path, {"stop": ""})
    place.give("stop")
    assert place.answers[0].refusal == "QEMU gives no reason"


@pytest.mark.parametrize(("line", "refusal"), [("savevm x", "Error: no"), ("info x", "")])
def test_command_of_the_human_monitor(tmp_path: Path, line: str, refusal: str) -> None:
    """Its error is text, which other text is not."""
    place, _ = _place(tmp_path)
    place.hmp(line)
    assert [(answer.command, answer.refusal) for answer in place.answers] == [(line, refusal)]


def test_job_is_completed_and_dismissed(tmp_path: Path) -> None:
    """A job that is ready waits for that."""
    place, qmp = _place(tmp_path, statuses="running ready concluded")
    place.run_job("blockdev-mirror", "job", {"device": "disk"})
    assert [name for name, _ in qmp.given] == ["blockdev-mirror", "job-complete", "job-dismiss"]
    assert qmp.given[0][1] == {"job-id": "job", "device": "disk"}
    assert [answer.refusal for answer in place.answers] == [""]


@pytest.mark.parametrize(("refused", "error", "words"), [("No.", "", "No."), ("", "There is", "There is")])
def test_job_that_is_refused_or_fails(tmp_path: Path, refused: str, error: str, words: str) -> None:
    """Both are one refusal."""
    place, _ = _place(tmp_path, {"snapshot-save": refused} if refused else {}, error=error)
    place.run_job("snapshot-save", "job", {})
    assert [answer.refusal for answer in place.answers] == [words]


def test_job_that_does_not_end(tmp_path: Path) -> None:
    """It is QEMU's failure."""
    place, _ = _place(tmp_path, statuses="running")
    place.deadline = Deadline(0.05)
    with pytest.raises(SubjectFailed, match="blockdev-mirror"):
        place.run_job("blockdev-mirror", "job", {})


def test_words_of_refusals(tmp_path: Path) -> None:
    """Each is said once."""
    place, _ = _place(tmp_path, {"a": "No.", "b": "No.", "c": "Never."})
    commands(("a", {}), ("b", {}), ("c", {}), ("d", {}))(place)
    assert refused_words(place.answers) == "No.; Never."


@pytest.mark.parametrize(("value", "known"), [("cpr-reboot", True), ("cpr-exec", False)])
def test_mode_that_this_qemu_does_not_know(tmp_path: Path, value: str, known: bool) -> None:
    """It is skipped, with the reason."""
    place, _ = _place(tmp_path)
    require = migrations._require_mode(value)
    if known:
        require(place)
        return
    with pytest.raises(NotApplicable, match="'cpr-exec'"):
        require(place)


@pytest.mark.parametrize("name", THINGS)
def test_each_thing_says_how_it_ends(name: str) -> None:
    """It has a reason, a state that QEMU knows, and statuses with which a save can end."""
    thing = THINGS[name]
    assert thing.reason
    assert not thing.reason.endswith(".")
    assert thing.state in {"", "running", *RUN_STATES}
    assert thing.ends <= {"completed", "failed", "cancelled"}
    assert thing.ends


class _Counters:
    """Counters of two writers, which give one reading after the other."""

    def __init__(self, *readings: tuple[int, int]) -> None:
        self.readings = list(readings)

    def steps(self) -> tuple[int, int]:
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]


def _machine(status: str) -> Machine:
    stub = SimpleNamespace(query_migrate=lambda: {"status": status}, pause=lambda _limit: None)
    return cast(Machine, stub)


def test_thing_waits_for_a_write_after_t0() -> None:
    """Each writer must have written, or the save proves nothing."""
    counters = _Counters((1, 1), (2, 1), (2, 2))
    assert mid_save.await_write(_machine("active"), cast(Any, counters), Deadline(1)) == (2, 2)


@pytest.mark.parametrize("status", ["completed", "active"])
def test_save_that_is_over_too_soon(status: str) -> None:
    """A save without a write after T0 is our own failure."""
    with pytest.raises(SetupBroken, match="proves nothing"):
        mid_save.await_write(_machine(status), cast(Any, _Counters((1, 1))), Deadline(0.02))
