"""Takes internal snapshots of the guest into a qcow2 image, and loads them, by QEMU's own jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.codes import Code
from harness.qemu.disk import make_empty_disk
from tests_functional.explore.acts import give, reset
from tests_functional.explore.model import COMPLETED, PAUSED, RUNNING
from tests_functional.explore.session import Session, host_excused
from validators.checks import Problem

_NODE, _TAG, _JOB = "explored-image", "explored", "explored-job"
# Room for what a snapshot puts into the image, which is sparse.
_IMAGE_BYTES = 1 << 30
_JOB_SECONDS = 40.0
_STATES = (RUNNING, PAUSED)


def save_inside(session: Session, _arguments: Mapping[str, Any]) -> bool:
    """Save the guest into an image, as `savevm` does; QEMU must refuse it while another save goes on."""
    if not _applies(session):
        return False
    session.settle()
    if not _ready(session):
        return True
    on_its_way, busy = session.save_goes_on(), session.model.save is not None
    words = _run_job(session, "snapshot-save", session.stored + 1)
    if words is None:
        session.stored += 1
        if on_its_way:
            sentence = "QEMU saves the guest into an image while it saves its RAM elsewhere."
            problem = Problem(Code.DURING_SAVE_ACCEPTED, sentence, {"command": "snapshot-save"})
            session.note("answers", problem)
    elif not busy and not session.tampered:
        sentence = f"QEMU does not save the guest into an image, which nothing excludes: {words}"
        session.note("answers", Problem(Code.DURING_SAVE_REFUSED, sentence, {"command": "snapshot-save"}))
    return True


def load_inside(session: Session, _arguments: Mapping[str, Any]) -> bool:
    """Load the guest from the image and reset it; a refusal must leave it as it is."""
    if not session.stored or not _applies(session):
        return False
    session.settle()
    saving = session.model.save is not None
    words = _run_job(session, "snapshot-load", session.stored)
    if words is None:
        reset(session, {})
    elif not saving and not session.tampered:
        sentence = f"QEMU does not load the guest from its image, which nothing excludes: {words}"
        session.note("answers", Problem(Code.DURING_SAVE_REFUSED, sentence, {"command": "snapshot-load"}))
    return True


def _applies(session: Session) -> bool:
    """Return whether internal snapshots can be told from the save that goes on.

    `query-migrate` has the status of the later one. After a cancel QEMU takes an internal one at once.
    """
    model = session.model
    return model.run_state in _STATES and (model.save is None or model.save.ends == {COMPLETED})


def _ready(session: Session) -> bool:
    """Give QEMU the image once; return whether it takes it."""
    if session.image:
        return True
    path = session.run.folder / f"{_NODE}.qcow2"
    make_empty_disk(path, _IMAGE_BYTES)
    file = {"driver": "file", "filename": str(path)}
    session.image = (
        give(session, "blockdev-add", {"driver": "qcow2", "node-name": _NODE, "file": file}) is None
    )
    _opened(session)
    return session.image


def _run_job(session: Session, command: str, number: int) -> str | None:
    """Run a job about a snapshot of the image to its end; return its error, None without one."""
    machine = session.machine
    arguments = {"job-id": _JOB, "tag": f"{_TAG}-{number}", "vmstate": _NODE, "devices": [_NODE]}
    refusal = give(session, command, arguments)
    if refusal is not None:
        return refusal
    _opened(session)
    with host_excused(machine):
        session.limit(_JOB_SECONDS).wait_for(
            lambda: _job(session)["status"] == "concluded", f"The job '{command}'"
        )
    error = _job(session).get("error")
    machine.qmp.execute("job-dismiss", {"id": _JOB})
    session.reached.add(f"{command} {'refused' if error else 'accepted'} in {session.model.words}")
    return None if error is None else str(error)


def _job(session: Session) -> Mapping[str, Any]:
    jobs = session.machine.qmp.execute("query-jobs", deadline=session.limit())
    return next(entry for entry in jobs if entry["id"] == _JOB)


def _opened(session: Session) -> None:
    if session.save is not None:
        session.save.touched = True
