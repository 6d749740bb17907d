"""Contract: what a failed snapshot leaves behind is judged red exactly where it should be."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from guest_images.agent.counters import AgentCounters
from harness.codes import Code
from harness.errors import NotApplicable, SnapproofError, SubjectFailed
from harness.guest.shell import GuestUnreachable
from harness.linux.uffd_waiters import Waiters
from harness.qemu import migration
from harness.qemu.guest_memory import QemuMemoryGone
from harness.qemu.machine import Machine
from harness.status import Status
from tests_functional.failures import afterwards, broken_saves
from tests_functional.failures.afterwards import Group
from tests_functional.failures.broken_saves import _Broken
from tests_functional.failures.cases import CANCEL, DESCRIPTORS, SINKS, Case
from tests_functional.failures.ending import (
    Ending,
    judge_ending,
    judge_resumed,
    resumed_problems,
    written_least,
)
from tests_functional.failures.kill import left_problems
from tests_functional.failures.sinks import (
    SinkPlace,
    descriptor_limit,
    end_sinks,
    limit_for,
    open_numbers,
    sink,
)
from tests_functional.lib.known_issues import load_known_issues
from tests_unit.support.scenario_values import SOURCE, make_run, sentences, stack, stand_in_guest
from validators.checks import Problem, judged
from validators.verdict import CheckResult, Verdict

_CASE = Case("broken", "reason", "exec:exit 0")


@pytest.fixture(name="sleeper")
def _sleeper() -> Iterator[int]:
    """A process that leads its own session, as QEMU does, and has a child.

    It is waited for, since a program that has only just begun has more open files than later: its libraries.
    It ends with a builtin: a shell may become the last program of its script, which begins once more then.
    """
    command = ["sh", "-c", "sleep 100 & echo begun; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        yield process.pid
        process.kill()
        end_sinks(process.pid)


def test_failed_save_with_a_reason_is_right() -> None:
    """It failed as it had to, and says why."""
    assert judge_ending(_CASE, Ending("failed", "Broken pipe")).status is Status.PASS


@pytest.mark.parametrize(
    ("ending", "code", "sentence"),
    [
        (
            Ending("completed"),
            Code.SAVE_WRONG_END,
            "The save is 'completed' after 0.0 s and had to be 'failed'.",
        ),
        (
            Ending("active", seconds=10),
            Code.SAVE_WRONG_END,
            "The save is 'active' after 10.0 s and had to be 'failed'.",
        ),
        (Ending("failed"), Code.SAVE_NO_REASON, "QEMU does not say why the save failed."),
        (
            Ending("active", silent=SubjectFailed("It died.", code=Code.QEMU_ENDED)),
            Code.QEMU_ENDED,
            "QEMU's monitor hangs or is gone: It died.",
        ),
    ],
)
def test_wrong_ending_is_named(ending: Ending, code: Code, sentence: str) -> None:
    """Another end, none in time, no reason, and no answer."""
    (violation,) = judge_ending(_CASE, ending).violations
    assert (violation.code, violation.sentence) == (code, sentence)


def test_refused_save_must_leave_no_migration() -> None:
    """QEMU says no, and yet thinks that one is under way (finding F3)."""
    case = Case("broken", "reason", "exec:exit 0", frozenset({"refused"}))
    (violation,) = judge_ending(case, Ending("refused", "No.", left_in="setup")).violations
    assert (violation.code, violation.fields) == (Code.SAVE_REFUSED_BUT_ACTIVE, {"status": "setup"})
    assert violation.sentence == "QEMU refused the save, yet says that a migration is in 'setup'."


def test_guest_that_does_not_go_on_is_named() -> None:
    """Paused, or running by QMP's word alone; the slowest writer is the one that counts."""
    assert resumed_problems("running", 50) == []
    (paused,) = resumed_problems("paused", 50)
    assert (paused.code, paused.fields) == (Code.GUEST_NOT_RESUMED, {"state": "paused"})
    assert paused.sentence == "The guest is 'paused' 10 s after the save had to be over."
    (slow,) = resumed_problems("running", 3)
    assert (slow.code, slow.fields) == (Code.GUEST_WRITERS_STALLED, {})
    assert "a writer wrote 3 pages" in slow.sentence
    (held,) = resumed_problems("running", 0, Waiters(("CPU 0",)))
    assert (held.code, held.fields) == (Code.GUEST_WRITERS_STALLED, {"waiting_threads": "CPU 0"})
    assert "wrote 0 pages in 10 s; 'CPU 0' waits in a page fault" in held.sentence
    assert written_least((5, 5), (500, 8)) == 3


@pytest.mark.parametrize(
    ("held", "known"), [(Waiters(), False), (Waiters(("CPU 0/TCG",)), True), (Waiters((), 1), True)]
)
def test_guest_that_does_nothing_is_f6_only_where_a_thread_waits(held: Waiters, known: bool) -> None:
    """Writers that stall for another reason than a page that is not released are a new defect."""
    (issue,) = (issue for issue in load_known_issues() if issue.id == "F6")
    check = judged("failures/cancel-stalled/resumes", "It goes on.", resumed_problems("running", 0, held))
    assert issue.explains(check, {"qemu": "10.0.13"}) == known


def test_what_a_killed_qemu_leaves_is_named() -> None:
    """Processes that stay, and a file that goes on growing."""
    assert left_problems([], 0) == []
    found = [problem.code for problem in left_problems([7, 8], 4096)]
    assert found == [Code.KILLED_PROCESSES_LEFT, Code.KILLED_FILE_GROWS]


def test_cases_have_names_of_their_own() -> None:
    """Their checks must not be taken for one another's."""
    names = [case.name for case in (*SINKS, *CANCEL, *DESCRIPTORS)]
    assert len(set(names)) == len(names)


def test_limit_leaves_so_many_descriptors() -> None:
    """The lowest free number is given first, so holes count."""
    assert limit_for({0, 1, 2}, 0) == 3
    assert limit_for({0, 1, 2, 4}, 1) == 5
    assert limit_for({0, 1, 2, 4}, 2) == 6


def test_descriptor_limit_is_taken_back(sleeper: int) -> None:
    """Another process is limited for the length of the `with` only."""
    before = resource.prlimit(sleeper, resource.RLIMIT_NOFILE)
    with descriptor_limit(sleeper, 2):
        assert resource.prlimit(sleeper, resource.RLIMIT_NOFILE)[0] == limit_for(open_numbers(sleeper), 2)
    assert resource.prlimit(sleeper, resource.RLIMIT_NOFILE) == before


def test_sinks_are_ended_but_not_qemu(sleeper: int) -> None:
    """All of the session is killed but its leader."""
    assert end_sinks(sleeper) > 0
    os.kill(sleeper, 0)


@pytest.mark.parametrize("uri", ["unix:{socket}", "tcp:127.0.0.1:{port}"])
def test_peer_takes_some_and_goes(uri: str, tmp_path: Path) -> None:
    """A socket sink reads a MiB and resets the connection, which ends the sender."""
    with sink(uri, SinkPlace(tmp_path, 1 << 24)) as address:
        scheme, _, where = address.partition(":")
        family = socket.AF_UNIX if scheme == "unix" else socket.AF_INET
        with socket.socket(family) as sender:
            host, _, port = where.rpartition(":")
            sender.connect(where if scheme == "unix" else (host, int(port)))
            with pytest.raises(OSError, match=r"reset|Broken pipe"):
                sender.sendall(bytes(64 << 20))


def test_snapshot_that_a_failure_made_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A QEMU that refuses the next snapshot is no QEMU without snapshots: it took one before the failure."""

    def refused(*_rest: object) -> None:
        raise NotApplicable("QEMU refuses background-snapshot on this host.")

    monkeypatch.setattr(afterwards, "take", refused)
    monkeypatch.setattr(afterwards, "lost_descriptors", lambda _source: [])
    group, place = Group(make_run(tmp_path), []), SinkPlace(tmp_path, 1 << 20)
    found = afterwards._next_snapshot(
        group, stand_in_guest(SOURCE), cast(Any, SimpleNamespace(counters=None)), SINKS[0], place
    )
    assert found.name == f"failures/{SINKS[0].name}/next"
    assert sentences(found) == [
        "No snapshot is possible after the failure: QEMU refuses background-snapshot on this host."
    ]
    assert group.last is None


def test_next_snapshot_that_fails_says_what_qemu_had_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that QEMU closed in the failure may be why (finding F5); any other error is no failed save."""
    fields = {"status": "failed"}
    errors = [
        SubjectFailed("The save ended as 'failed'.", code=Code.SAVE_FAILED, fields=fields),
        SubjectFailed("QEMU ended.", code=Code.QEMU_ENDED),
    ]

    def failed(*_rest: object) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(afterwards, "take", failed)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as qemu:
        host = SimpleNamespace(descriptors=((0, "/dev/null"), (1, "x"), (500, "gone")))
        source = SimpleNamespace(
            counters=None,
            guest=SimpleNamespace(machine=SimpleNamespace(pid=qemu.pid)),
            before=SimpleNamespace(host=host),
        )
        group, place = Group(make_run(tmp_path), []), SinkPlace(tmp_path, 1 << 20)
        arguments = (group, stand_in_guest(SOURCE), cast(Any, source), SINKS[0])
        (violation,) = afterwards._next_snapshot(*arguments, place).violations
        assert violation.code is Code.SAVE_FAILED
        assert violation.fields == {**fields, "lost_descriptors": "500"}
        other = tmp_path / "other"
        other.mkdir()
        with pytest.raises(SubjectFailed, match="QEMU ended"):
            afterwards._next_snapshot(*arguments, SinkPlace(other, 1 << 20))


def test_qemu_whose_memory_is_gone_has_ended() -> None:
    """It is alive until it is waited for, and its memory goes first."""

    class Gone:
        def steps(self) -> tuple[int, ...]:
            raise QemuMemoryGone("The guest's counters cannot be read: QEMU's memory is gone.")

    machine = cast(Machine, SimpleNamespace(alive=lambda: True))
    (violation,) = judge_resumed(_CASE, machine, cast(AgentCounters, Gone())).violations
    assert violation.code is Code.QEMU_ENDED_BY_ITSELF
    assert violation.sentence == "QEMU has ended by itself."


def test_silent_monitor_is_not_asked_again() -> None:
    """A guest whose QEMU was silent for as long as it may be has not resumed, and QEMU's silence is named."""
    machine = cast(Machine, SimpleNamespace(alive=lambda: True))
    silent = SubjectFailed("QEMU did not answer 'query-migrate' within 10 s.", code=Code.QMP_NO_ANSWER)
    (violation,) = judge_resumed(_CASE, machine, cast(AgentCounters, None), silent).violations
    assert violation.code is Code.QMP_NO_ANSWER
    assert violation.sentence == f"QEMU or its monitor failed: {silent.sentence}"


_GOOD = judged("good", "It holds.", [])
_BAD = judged("other", "It holds.", [Problem(Code.QEMU_FAILED, "No.")])
_WRONG_END = judged("end", "It holds.", [Problem(Code.SAVE_WRONG_END, "No.")])


@pytest.mark.parametrize(
    ("broken", "after", "well", "looked"),
    [
        (_Broken([_GOOD, _GOOD]), [_GOOD], True, True),
        (_Broken([_WRONG_END, _GOOD], of_save=[_WRONG_END]), [_GOOD], True, True),
        (_Broken([_WRONG_END, _BAD], of_save=[_WRONG_END]), [_GOOD], False, True),
        (_Broken([_GOOD, _GOOD]), [_BAD], False, True),
        (_Broken([_WRONG_END, _BAD], of_save=[_WRONG_END], hangs=True), [_GOOD], False, False),
    ],
)
def test_guest_goes_on_only_where_no_more_than_its_save_went_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: _Broken,
    after: list[CheckResult],
    well: bool,
    looked: bool,
) -> None:
    """The group goes on if only its save went wrong; a QEMU that hangs even then is not asked again."""
    asked: list[CheckResult] = []

    def judge_afterwards(*_rest: object) -> list[CheckResult]:
        asked.extend(after)
        return after

    monkeypatch.setattr(broken_saves, "_broken_save", lambda *_: broken)
    monkeypatch.setattr(broken_saves, "judge_afterwards", judge_afterwards)
    guest = SimpleNamespace(machine=SimpleNamespace(alive=lambda: True))
    group = Group(make_run(tmp_path), [])
    found = broken_saves._survived(
        group, cast(Any, SimpleNamespace(guest=guest)), _CASE, SinkPlace(tmp_path / "x", 1 << 20)
    )
    assert (found, bool(asked)) == (well, looked)
    assert group.checks == [*broken.checks, *asked]


def test_guest_that_stands_still_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QMP has said that it is paused, so it cannot answer; the sink is judged all the same."""
    gone = judged("sink-gone", "It is gone.", [])
    monkeypatch.setattr(migration, "wait_cleaned_up", lambda *_: None)
    monkeypatch.setattr(afterwards, "_sink_gone", lambda *_: gone)
    source = cast(Any, SimpleNamespace(guest=SimpleNamespace(machine=None)))
    place, group = SinkPlace(tmp_path, 1 << 20), Group(make_run(tmp_path), [])
    assert afterwards.judge_afterwards(group, source, _CASE, place, stands_still=True) == [gone]
    with pytest.raises(AttributeError):
        afterwards.judge_afterwards(group, source, _CASE, place)


def test_file_of_a_completed_save_is_judged_even_if_the_guest_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest and the file are two promises; a bad file alone does not cost the guest."""
    file = tmp_path / "vmstate"
    file.write_bytes(b"no stream")
    broken = [_Broken([_GOOD], file=file) for _ in range(2)]
    answers: list[list[CheckResult] | SnapproofError] = [[_GOOD], GuestUnreachable("No answer.")]

    def judge_afterwards(*_rest: object) -> list[CheckResult]:
        answer = answers.pop(0)
        if isinstance(answer, SnapproofError):
            raise answer
        return answer

    def bad_file(path: Path, agent_ran: bool) -> Verdict:
        return Verdict((_BAD,)) if path == file and agent_ran else Verdict(())

    monkeypatch.setattr(broken_saves, "_broken_save", lambda *_: broken.pop(0))
    monkeypatch.setattr(broken_saves, "judge_afterwards", judge_afterwards)
    monkeypatch.setattr(broken_saves, "check_file", bad_file)
    machine = SimpleNamespace(alive=lambda: True)
    source = cast(Any, SimpleNamespace(guest=SimpleNamespace(machine=machine)))
    found = []
    for well in (True, False):
        group = Group(make_run(tmp_path), [])
        assert broken_saves._survived(group, source, _CASE, SinkPlace(tmp_path / "x", 1 << 20)) == well
        found.append({check.name: check.status for check in group.checks})
    assert found[0]["failures/broken/file"] is Status.FAIL
    assert found[1]["failures/broken/file"] is Status.FAIL
    assert found[1]["failures/broken/alive"] is Status.FAIL


def test_card_takes_no_part_where_descriptors_are_counted(tmp_path: Path) -> None:
    """Its connections time out in the middle of a save, and a descriptor more than allowed hides F10."""
    given = stack(tmp_path)
    bare = replace(given, image=replace(given.image, bare=True))
    assert broken_saves._with_card(bare, CANCEL).nic
    assert not broken_saves._with_card(bare, DESCRIPTORS).nic
