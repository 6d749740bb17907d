"""Error classes by whose fault it is; each maps to exactly one result status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.codes import Code, Fields
from harness.status import Status


@dataclass(frozen=True)
class Evidence:
    """What a person needs to look into an error.

    Attributes:
        command: the command line that was run, empty where none was.
        exit_code: its exit code, negative for a signal, None while running or where none was run.
        log_tail: the last lines of its output.
        paths: files and folders worth opening.
    """

    command: Sequence[str] = ()
    exit_code: int | None = None
    log_tail: str = ""
    paths: Sequence[Path] = field(default=())


class SnapproofError(Exception):
    """Base of every error meant for a person.

    Attributes:
        status: what the error makes of a test.
        code: what happened, for control flow and known issues; that of the class where none is given.
        sentence: one full sentence.
        evidence: what a person needs to look into it.
        fields: values that tell apart what the code stands for.
    """

    status = Status.ERROR
    code = Code.SETUP_BROKEN

    def __init__(
        self,
        sentence: str,
        evidence: Evidence | None = None,
        *,
        code: Code | None = None,
        fields: Fields | None = None,
    ) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.evidence = evidence or Evidence()
        self.code = code or type(self).code
        self.fields: Fields = dict(fields or {})


class SnapshotWrong(SnapproofError):
    """An oracle found that the snapshot is not the guest at T0."""

    status = Status.FAIL
    code = Code.SNAPSHOT_WRONG


class SubjectFailed(SnapproofError):
    """The QEMU or the kernel under test crashed, hung, or broke its own interface."""

    status = Status.FAIL
    code = Code.QEMU_FAILED


class SetupBroken(SnapproofError):
    """The test's own set-up failed: says nothing about the subject."""

    status = Status.ERROR


class MachineryMissing(SnapproofError):
    """A program, package or permission that the run needs is not there."""

    status = Status.MISS
    code = Code.SETUP_MISSING


class NotApplicable(SnapproofError):
    """The subject or host has no such feature; the sentence gives the probed reason."""

    status = Status.SKIP
    code = Code.FEATURE_ABSENT


class DeadlineExpired(SnapproofError):
    """A wait ran out of time; callers that know whose fault it is raise that instead."""

    status = Status.ERROR
    code = Code.WAIT_EXPIRED


class UsageError(SnapproofError):
    """The user's input cannot be used as given."""

    status = Status.ERROR
    code = Code.SETUP_USAGE


class NoSubject(UsageError):
    """What the user named as the QEMU or kernel under test is not there, or is no such thing."""
