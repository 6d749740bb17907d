"""Error classes by whose fault it is; each maps to exactly one result status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.codes import Code, Fields
from harness.status import Status


@dataclass(frozen=True)
class Evidence:
    """What a person needs to investigate an error.

    Attributes:
        command: the command line that was run, empty if none was.
        exit_code: its exit code, negative for a signal, None if it still runs or none was run.
        log_tail: the last lines of its output.
        paths: files and folders to look at.
    """

    command: Sequence[str] = ()
    exit_code: int | None = None
    log_tail: str = ""
    paths: Sequence[Path] = field(default=())


class SnapproofError(Exception):
    """Base of every error meant for a person.

    Attributes:
        status: the status of a test that ends with this error.
        code: what happened, for control flow and known issues; by default the code of the class.
        sentence: one full sentence: what happened, whose fault it is, what to do.
        evidence: what a person needs to investigate it.
        fields: values that tell cases with the same code apart.
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
    """The test's own set-up failed, which shows nothing about the subject."""

    status = Status.ERROR


class HostTooBusy(SetupBroken):
    """The host gave QEMU too little processor time for a limit that passed to be evidence."""

    code = Code.SETUP_LIMIT


class MachineryMissing(SnapproofError):
    """A program, package or permission that the run needs is missing."""

    status = Status.MISS
    code = Code.SETUP_MISSING


class NotApplicable(SnapproofError):
    """The subject or the host does not have a feature; the sentence gives the probed reason."""

    status = Status.SKIP
    code = Code.FEATURE_ABSENT


class DeadlineExpired(SnapproofError):
    """A wait ran out of time; a caller that knows whose fault that is raises another class instead."""

    status = Status.ERROR
    code = Code.WAIT_EXPIRED


class UsageError(SnapproofError):
    """The user's input cannot be used as given."""

    status = Status.ERROR
    code = Code.SETUP_USAGE


class NoSubject(UsageError):
    """The file that the user named as the QEMU or kernel under test does not exist, or is not one."""
