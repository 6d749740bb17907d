"""Contract: each act asks of QEMU what the model implies, and notes it if QEMU does otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from guest_images.agent.bare_agent import BareAgent
from harness.codes import Code
from harness.deadline import Deadline
from tests_functional.explore import acts
from tests_functional.explore.model import (
    CANCELLED,
    COMPLETED,
    FAILED,
    PAUSED,
    RUNNING,
    SHUTDOWN,
    SUSPENDED,
    Model,
    Writers,
)
from tests_unit.support.explored_session import StandInSession, codes_of, stand_in_session

_SAVING = Model().begun(RUNNING)
_GOES_ON = {"status": "active", "ram": {"remaining": 32 << 20}}


def test_stop_and_cont_change_the_model_and_must_be_accepted() -> None:
    """A guest that QEMU does not stop, or not let go on, is noted with the command."""
    session = stand_in_session(Model())
    assert acts.stop(session, {})
    assert session.model.run_state == PAUSED
    assert acts.cont(session, {})
    assert session.model.run_state == RUNNING
    assert not session.failed
    refusing = stand_in_session(Model(), {"stop": "no"})
    acts.stop(refusing, {})
    assert refusing.model.run_state == RUNNING
    assert codes_of(refusing) == [Code.DURING_SAVE_REFUSED]


def test_a_guest_that_is_off_must_not_go_on() -> None:
    """QEMU must refuse `cont` there."""
    right = stand_in_session(Model(run_state=SHUTDOWN), {"cont": "reset needed"})
    acts.cont(right, {})
    assert not right.failed
    wrong = stand_in_session(Model(run_state=SHUTDOWN))
    acts.cont(wrong, {})
    assert codes_of(wrong) == [Code.DURING_SAVE_ACCEPTED]


def test_only_a_guest_that_sleeps_is_woken_up() -> None:
    """Waking up a guest that is awake must be refused; a sleeping one is not stopped or continued here."""
    awake = stand_in_session(Model())
    cast(Any, awake.source.guest).agent = cast(Any, object.__new__(BareAgent))
    acts.wake(awake, {})
    assert codes_of(awake) == [Code.DURING_SAVE_ACCEPTED]
    asleep = stand_in_session(Model(run_state=SUSPENDED))
    assert not acts.stop(asleep, {})
    assert not acts.cont(asleep, {})


@pytest.mark.parametrize(
    ("model", "answer", "given"),
    [
        (_SAVING, _GOES_ON, True),
        (_SAVING, {"status": "active", "ram": {"remaining": 4096}}, False),
        (_SAVING, {"status": "completed", "ram": {"remaining": 32 << 20}}, False),
        (_SAVING.may_end(CANCELLED), _GOES_ON, False),
        (Model(), _GOES_ON, False),
    ],
)
def test_a_second_save_is_asked_for_while_one_goes_on_for_sure(
    model: Model, answer: Mapping[str, Any], given: bool
) -> None:
    """Near the end of a save, or after a cancel, QEMU may accept one, which would be a false alarm."""
    session = stand_in_session(model, answer=answer)
    assert acts.migrate_again(session, {}) is given
    assert codes_of(session) == ([Code.DURING_SAVE_ACCEPTED] if given else [])
    refusing = stand_in_session(model, {"migrate": "in progress"}, answer)
    acts.migrate_again(refusing, {})
    assert not refusing.failed


def test_a_capability_that_changes_in_mid_save_is_noted() -> None:
    """QEMU must refuse it while RAM is saved for sure, and may accept it otherwise."""
    arguments = {
        "command": "migrate-set-capabilities",
        "arguments": {"capabilities": [{"capability": "events", "state": True}]},
    }
    wrong = stand_in_session(_SAVING, answer=_GOES_ON)
    acts.qmp(wrong, arguments)
    assert codes_of(wrong) == [Code.DURING_SAVE_ACCEPTED]
    before = stand_in_session(Model())
    acts.qmp(before, arguments)
    assert not before.failed
    assert before.tampered == {"events"}


@pytest.mark.parametrize(
    ("kind", "refused", "polls"),
    [
        ("memory-backend-memfd", True, 4),
        ("memory-backend-memfd", False, 1),
        ("rng-random", True, 0),
    ],
)
def test_memory_that_qemu_refused_is_closed_a_moment_later(
    monkeypatch: pytest.MonkeyPatch, kind: str, refused: bool, polls: int
) -> None:
    """That is waited for, since it would be a file left open, or closed, of the next save."""
    own, more = (0, "/dev/null"), (9, "/memfd:a")
    states = [(own,), (own, more), (own, more), (own,)]
    seen: list[int] = []

    def open_files(pid: int) -> tuple[tuple[int, str], ...]:
        seen.append(pid)
        return states[len(seen) - 1]

    monkeypatch.setattr(acts, "open_files", open_files)
    monkeypatch.setattr(acts, "known_pid", lambda _machine: 1)
    session = stand_in_session(Model(), {"object-add": "no"} if refused else {})
    monkeypatch.setattr(session, "limit", lambda _seconds=1.0: Deadline(60))
    acts.qmp(session, {"command": "object-add", "arguments": {"qom-type": kind, "id": "a"}})
    assert len(seen) == polls


def test_what_may_end_a_save_is_told_to_the_model() -> None:
    """A cancel, a closed sink and a yank each add an end; a refused yank adds none."""
    session = stand_in_session(_SAVING)
    acts.cancel(session, {})
    acts.set_sink(session, {"speed": "closed"})
    assert session.model.save is not None
    assert session.model.save.ends == {COMPLETED, CANCELLED, FAILED}
    yank = {"command": "yank", "arguments": {"instances": [{"type": "migration"}]}}
    accepted, refused = stand_in_session(_SAVING), stand_in_session(_SAVING, {"yank": "no"})
    for one in (accepted, refused):
        acts.qmp(one, yank)
    assert accepted.model.save is not None
    assert accepted.model.save.ends == {COMPLETED, FAILED}
    assert refused.model == _SAVING


class _SparseAgent(BareAgent):
    """Keeps what it is asked to do; two writers with 100 pages each."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def pause(self) -> None:
        self.asked.append("pause")

    def quit(self) -> None:
        self.asked.append("quit")

    def status(self) -> Any:
        return SimpleNamespace(data_pages=200, steps=(1, 1))

    def write_hole(self, thread: int, index: int) -> None:
        assert thread == 0
        assert 0 <= index < 100
        self.asked.append("write")


def _sparse(model: Model, pattern: str = "sparse") -> tuple[StandInSession, _SparseAgent]:
    session, agent = stand_in_session(model), _SparseAgent()
    cast(Any, session.source.guest).agent = agent
    session.written = (pattern, 0.4)
    return session, agent


def test_untouched_memory_is_written_and_its_writers_end() -> None:
    """The writers are parked first; others than `sparse` start later, which may find content there."""
    session, agent = _sparse(_SAVING)
    assert acts.untouched(session, {})
    writes = agent.asked[1:-1]
    assert (agent.asked[0], agent.asked[-1], set(writes)) == ("pause", "quit", {"write"})
    assert len(writes) >= 32
    assert session.written == ("random", 0.4)
    assert session.model.writers is Writers.GONE
    assert session.model.save is not None
    assert not session.model.save.same_guest


@pytest.mark.parametrize(
    ("model", "pattern"),
    [
        (_SAVING, "random"),
        (Model(), "sparse"),
        (_SAVING.stopped(), "sparse"),
        (_SAVING.ended_writers(), "sparse"),
        (_SAVING.stalled(True), "sparse"),
        (_SAVING.may_end(FAILED), "sparse"),
    ],
)
def test_untouched_memory_is_written_only_while_a_save_serves_it(model: Model, pattern: str) -> None:
    """Otherwise there is none, or the guest would wait for a page for good."""
    session, agent = _sparse(model, pattern)
    assert not acts.untouched(session, {})
    assert agent.asked == []
    assert session.model == model


def test_a_stalled_sink_is_told_to_the_model() -> None:
    """Stalled and slow again."""
    session = stand_in_session(_SAVING)
    acts.set_sink(session, {"speed": "stalled"})
    assert session.model.save_words == "stalled"
    acts.set_sink(session, {"speed": "slow"})
    assert session.model == _SAVING
    assert not acts.set_sink(stand_in_session(Model()), {"speed": "slow"})


def test_a_refusal_without_a_reason_is_noted() -> None:
    """QEMU may refuse a command, but not without a word; numbers do not make refusals differ."""
    silent = stand_in_session(Model(), {"balloon": " "})
    acts.qmp(silent, {"command": "balloon", "arguments": {}})
    assert codes_of(silent) == [Code.SAVE_NO_REASON]
    reached = set()
    for number in (17, 18):
        session = stand_in_session(Model(), {"balloon": f"not {number}"})
        acts.qmp(session, {"command": "balloon", "arguments": {}})
        assert not session.failed
        reached |= {word for word in session.reached if word.startswith("refusal")}
    assert reached == {"refusal of balloon: not N"}


@pytest.mark.parametrize(("command", "touched"), [("object-add", True), ("query-status", False)])
def test_commands_that_open_something_are_marked(command: str, touched: bool) -> None:
    """After those the host is not judged, since the command itself may have opened something."""
    session = stand_in_session(_SAVING)
    acts.qmp(session, {"command": command, "arguments": {}})
    assert session.save is not None
    assert session.save.touched is touched


def test_a_limit_is_set_while_a_save_goes_on_for_sure() -> None:
    """QEMU may refuse it; the save must end all the same, which `finish` judges."""
    session = stand_in_session(_SAVING, answer=_GOES_ON)
    assert acts.limit_bandwidth(session, {"bytes": 1 << 20})
    assert session.tampered == {"max-bandwidth"}
    refusing = stand_in_session(_SAVING, {"migrate-set-parameters": "no"}, _GOES_ON)
    acts.limit_bandwidth(refusing, {"bytes": 1 << 20})
    assert not refusing.tampered
    assert not refusing.failed
    assert not acts.limit_bandwidth(stand_in_session(Model()), {"bytes": 1 << 20})
