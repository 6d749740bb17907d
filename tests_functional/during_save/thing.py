"""A thing that is done while RAM is saved, and what QEMU answers to the commands that it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import DeadlineExpired, SubjectFailed
from harness.qemu.machine import Machine
from harness.qemu.qmp import CommandRefused
from tests_functional.during_save.sinks import Sink, command_sink
from tests_functional.lib.guest import Guest

# QEMU monitor/hmp.c: a command of the human monitor that fails prints its error after this word.
_HMP_ERROR = "Error: "
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Answer:
    """QEMU's answer to one command.

    Attributes:
        command: its name.
        refusal: QEMU's words if it refused it, "" if it did not.
        seconds: until it came.
    """

    command: str
    refusal: str
    seconds: float


@dataclass
class Place:
    """Where a thing is done: a guest, a folder for files, and the answers so far.

    Attributes:
        guest: the guest that is saved.
        folder: for files of the thing.
        deadline: for all of the thing.
        answers: those to the commands given by `give` and `hmp`.
    """

    guest: Guest
    folder: Path
    deadline: Deadline
    answers: list[Answer] = field(default_factory=list)

    @property
    def machine(self) -> Machine:
        """The QEMU."""
        return self.guest.machine

    def give(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Give a QMP command and keep its answer; return the result, None if it is refused.

        Raises:
            SubjectFailed: QEMU has ended, or does not answer.
        """
        begun = time.monotonic()
        refusal, result = "", None
        try:
            result = self.machine.qmp.execute(command, arguments, self.deadline)
        except CommandRefused as refused:
            refusal = refused.reason or "QEMU gives no reason"
        self.answers.append(Answer(command, refusal, time.monotonic() - begun))
        return result

    def hmp(self, line: str) -> str:
        """Give a command of the human monitor and keep its answer; return what it prints."""
        begun = time.monotonic()
        arguments = {"command-line": line}
        text = str(self.machine.qmp.execute("human-monitor-command", arguments, self.deadline)).strip()
        refusal = text if text.startswith(_HMP_ERROR) else ""
        self.answers.append(Answer(line, refusal, time.monotonic() - begun))
        return text

    def run_job(self, command: str, job: str, arguments: Mapping[str, Any]) -> None:
        """Give a command that starts a job, and wait until the job is over; its error is the refusal.

        Raises:
            SubjectFailed: the job does not end in time.
        """
        begun = time.monotonic()
        self.give(command, {"job-id": job, **arguments})
        if self.answers[-1].refusal:
            return
        try:
            self.deadline.wait_for(lambda: self._job_over(job), f"The job '{command}'", _POLL_SECONDS)
        except DeadlineExpired as error:
            raise SubjectFailed(error.sentence, code=Code.WAIT_EXPIRED) from error
        found = next(entry for entry in self.machine.qmp.execute("query-jobs") if entry["id"] == job)
        self.machine.qmp.execute("job-dismiss", {"id": job})
        self.answers[-1] = Answer(command, str(found.get("error", "")), time.monotonic() - begun)

    def _job_over(self, job: str) -> bool:
        """Return whether a job is over; one that waits to be completed is told to."""
        found = next(entry for entry in self.machine.qmp.execute("query-jobs") if entry["id"] == job)
        if found["status"] == "ready":
            self.machine.qmp.execute("job-complete", {"id": job})
        return bool(found["status"] == "concluded")


def nothing(_place: Place) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Thing:
    """Something that is done while RAM is saved, and how it has to end.

    Attributes:
        reason: why it is tested.
        do: does it.
        arguments: further ones of QEMU.
        prepare: what is done before the save.
        clean_up: what is done after it, so that QEMU has open what it had before.
        refused: whether QEMU must refuse its commands; None if it may.
        ends: the statuses with which the save may end.
        state: the guest's run state afterwards, "" if QEMU must have ended.
        same_guest: whether the guest's writers must go on afterwards; not so after a reset.
        sets: whether it changes migration parameters.
        sink: where the save goes.
    """

    reason: str
    do: Callable[[Place], None]
    arguments: tuple[str, ...] = ()
    prepare: Callable[[Place], None] = nothing
    clean_up: Callable[[Place], None] = nothing
    refused: bool | None = False
    ends: frozenset[str] = frozenset({"completed"})
    state: str = "running"
    same_guest: bool = True
    sets: bool = False
    sink: Sink = command_sink


def command(name: str, arguments: Mapping[str, Any] | None = None) -> Callable[[Place], None]:
    """Return a function that gives one QMP command."""
    return commands((name, arguments or {}))


def commands(*given: tuple[str, Mapping[str, Any]]) -> Callable[[Place], None]:
    """Return a function that gives QMP commands one after the other."""

    def do(place: Place) -> None:
        for name, arguments in given:
            place.give(name, arguments)

    return do


def in_turn(*steps: Callable[[Place], None]) -> Callable[[Place], None]:
    """Return a function that takes steps one after the other."""

    def do(place: Place) -> None:
        for step in steps:
            step(place)

    return do


def refused_words(answers: Sequence[Answer]) -> str:
    """Return the refusals among answers, each once."""
    return "; ".join(dict.fromkeys(answer.refusal for answer in answers if answer.refusal))
