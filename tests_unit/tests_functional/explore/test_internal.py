"""Contract: internal snapshots are taken and loaded by jobs, and must be refused while RAM is saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.codes import Code
from tests_functional.explore import internal
from tests_functional.explore.model import CANCELLED, RUNNING, SHUTDOWN, SUSPENDED, Model
from tests_unit.support.explored_session import StandInSession, codes_of, stand_in_session

_SAVING = Model().begun(RUNNING)
_GOES_ON = {"status": "active", "ram": {"remaining": 32 << 20}}
_BUSY = "There is a migration process in progress"


def _session(
    tmp_path: Path,
    model: Model,
    error: str | None = None,
    refused: Mapping[str, str] | None = None,
    answer: Mapping[str, Any] | None = None,
) -> StandInSession:
    """Return a session whose image is there; a job of QEMU ends with an error, or without."""
    job = {"id": "explored-job", "status": "concluded", **({"error": error} if error else {})}
    session = stand_in_session(model, refused, answer, {"query-jobs": [job]}, tmp_path)
    session.image = True
    return session


def test_a_snapshot_is_taken_and_counted(tmp_path: Path) -> None:
    """Each has a tag of its own, and the job is dismissed."""
    session = _session(tmp_path, Model())
    assert internal.save_inside(session, {})
    assert internal.save_inside(session, {})
    assert session.stored == 2
    assert session.qmp.arguments["snapshot-save"]["tag"] == "explored-2"
    assert session.qmp.given[-1] == "job-dismiss"
    assert not session.failed


def test_a_snapshot_beside_a_save_must_be_refused(tmp_path: Path) -> None:
    """Accepted it is noted; near the end of a save, or if QEMU refuses, it is not."""
    accepted = _session(tmp_path, _SAVING, answer=_GOES_ON)
    internal.save_inside(accepted, {})
    assert codes_of(accepted) == [Code.DURING_SAVE_ACCEPTED]
    assert accepted.save is not None
    assert accepted.save.touched
    for late in (
        _session(tmp_path, _SAVING, answer={"status": "completed"}),
        _session(tmp_path, _SAVING, _BUSY, answer=_GOES_ON),
        _session(tmp_path, _SAVING, refused={"snapshot-save": _BUSY}, answer=_GOES_ON),
    ):
        internal.save_inside(late, {})
        assert not late.failed


@pytest.mark.parametrize("error", ["", "no"])
def test_a_snapshot_that_nothing_excludes_must_be_taken(tmp_path: Path, error: str) -> None:
    """A refusal at once and an error of the job are the same; a changed setting excuses both."""
    refused = {} if error else {"snapshot-save": "no"}
    session = _session(tmp_path, Model(), error or None, refused)
    internal.save_inside(session, {})
    assert codes_of(session) == [Code.DURING_SAVE_REFUSED]
    assert session.stored == 0
    excused = _session(tmp_path, Model(), error or None, refused)
    excused.tampered.add("multifd")
    internal.save_inside(excused, {})
    assert not excused.failed


def test_a_loaded_guest_is_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There must be a snapshot; the last one is loaded; a refused load leaves the guest as it is."""
    resets: list[StandInSession] = []
    monkeypatch.setattr(internal, "reset", lambda session, _arguments: resets.append(session))
    session = _session(tmp_path, Model())
    assert not internal.load_inside(session, {})
    session.stored = 3
    assert internal.load_inside(session, {})
    assert session.qmp.arguments["snapshot-load"]["tag"] == "explored-3"
    assert resets == [session]
    refusing = _session(tmp_path, Model(), refused={"snapshot-load": "no"})
    refusing.stored = 1
    internal.load_inside(refusing, {})
    assert codes_of(refusing) == [Code.DURING_SAVE_REFUSED]
    beside = _session(tmp_path, _SAVING, refused={"snapshot-load": _BUSY}, answer=_GOES_ON)
    beside.stored = 1
    internal.load_inside(beside, {})
    assert not beside.failed
    assert resets == [session]


@pytest.mark.parametrize(
    "model", [Model(run_state=SUSPENDED), Model(run_state=SHUTDOWN), _SAVING.may_end(CANCELLED)]
)
def test_where_internal_snapshots_do_not_apply(tmp_path: Path, model: Model) -> None:
    """After a cancel nobody could tell the one save from the other; a guest that is off is not saved."""
    session = _session(tmp_path, model, answer=_GOES_ON)
    session.stored = 1
    assert not internal.save_inside(session, {})
    assert not internal.load_inside(session, {})
    assert session.qmp.given == []


def test_qemu_gets_the_image_once(tmp_path: Path) -> None:
    """A QEMU that does not take it gets no job."""
    session = _session(tmp_path, Model())
    session.image = False
    internal.save_inside(session, {})
    internal.save_inside(session, {})
    assert session.qmp.given.count("blockdev-add") == 1
    refusing = _session(tmp_path / "other", Model(), refused={"blockdev-add": "no"})
    (tmp_path / "other").mkdir()
    refusing.image = False
    internal.save_inside(refusing, {})
    assert "snapshot-save" not in refusing.qmp.given
