"""Stands in for the guest of a list of steps: a QEMU that refuses some commands, and keeps those it gets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from harness.codes import Code
from harness.qemu.qmp import CommandRefused
from tests_functional.explore.model import RUNNING, Model
from tests_functional.explore.session import Session
from tests_functional.explore.sink import Sink, Speed
from tests_functional.refusals.migration_options import Settings
from validators.verdict import CheckResult


class StandInQmp:
    """Refuses some commands, and keeps all that were given.

    Attributes:
        refused: by command, with which words.
        answers: by command, what it answers.
        given: names of the commands, in their order.
        arguments: of the last command of each name.
    """

    def __init__(self, refused: Mapping[str, str], answers: Mapping[str, Any]) -> None:
        self.refused, self.answers = refused, answers
        self.given: list[str] = []
        self.arguments: dict[str, Any] = {}

    def execute(self, command: str, arguments: Any = None, deadline: Any = None) -> Any:
        """Answer a command, or refuse it."""
        del deadline
        self.given.append(command)
        self.arguments[command] = arguments
        if command in self.refused:
            raise CommandRefused(command, self.refused[command])
        return self.answers.get(command, {"status": RUNNING})


class _Limit(float):
    """A time limit that is over at once."""

    expired = True

    def wait_for(self, condition: Any, what: str) -> None:
        """Check that the condition holds."""
        assert condition(), what


class StandInSession(Session):
    """A session without a guest; the settings are those of before."""

    def limit(self, seconds: float = 1.0) -> Any:
        """Return a limit that is over at once."""
        return _Limit(seconds)

    def note_settings(self) -> None:
        """Leave the settings as they are."""

    def serve_again(self) -> None:
        """Start no writers."""

    @property
    def qmp(self) -> StandInQmp:
        """The stand-in of QEMU."""
        return cast(StandInQmp, self.machine.qmp)


def stand_in_session(
    model: Model,
    refused: Mapping[str, str] | None = None,
    answer: Mapping[str, Any] | None = None,
    answers: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> StandInSession:
    """Return a session whose QEMU refuses some commands.

    Args:
        model: of guest and QEMU.
        refused: by command, with which words.
        answer: what `query-migrate` says.
        answers: what other commands answer.
        folder: of the run.
    """
    qmp = StandInQmp(refused or {}, answers or {})
    machine = SimpleNamespace(
        qmp=qmp, pid=None, query_migrate=lambda: answer or {}, alive=lambda: True, pause=lambda *_: None
    )
    source: Any = SimpleNamespace(guest=SimpleNamespace(machine=machine, agent=None))
    run: Any = SimpleNamespace(folder=folder, stack=SimpleNamespace(slowness=1.0))
    nothing: Any = None
    session = StandInSession(
        run, source, nothing, Settings({}, {}), nothing, nothing, ("random", 0.4), model=model
    )
    if model.save is not None:
        sink = Sink("exec:", cast(Any, None), Speed.SLOW)
        session.save = cast(Any, SimpleNamespace(sink=sink, touched=False))
    return session


def codes_of(session: Session) -> list[Code]:
    """Return the codes of all violations that were noted."""
    checks: list[CheckResult] = session.checks
    return [violation.code for check in checks for violation in check.violations]
