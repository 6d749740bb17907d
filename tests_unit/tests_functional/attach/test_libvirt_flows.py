"""Contract: a guest that ran between T0 of its memory and that of its disk is no guest of one T0."""

from __future__ import annotations

import pytest

from harness.codes import Code
from harness.qemu.qmp import Event
from harness.status import Status
from tests_functional.attach.libvirt_flows import (
    Found,
    KnownWrong,
    _moment,
    at_one_time,
    judge_flow,
    known_wrong,
    wrong_file,
)
from tests_unit.support.scenario_values import check
from validators.verdict import Verdict


@pytest.mark.parametrize(
    ("events", "lives", "right"),
    [
        (["STOP", "COMPLETED"], False, True),
        (["STOP", "COMPLETED", "RESUME"], True, True),
        (["COMPLETED", "STOP", "RESUME"], True, True),
        (["STOP", "RESUME"], True, True),
        # A background snapshot, after which libvirt pins the disks of a guest that runs.
        (["STOP", "RESUME", "COMPLETED"], True, False),
        (["STOP", "RESUME", "COMPLETED", "STOP", "RESUME"], True, False),
        # QEMU 7.2 has the guest go on by itself (F1).
        (["STOP", "RESUME", "COMPLETED"], False, False),
        (["STOP", "COMPLETED", "RESUME"], False, False),
        ([], True, True),
    ],
)
def test_one_time(events: list[str], lives: bool, right: bool) -> None:
    """It stands still from T0 until libvirt has it go on."""
    assert at_one_time(events, lives) is right


def test_moments() -> None:
    """Of the events of a migration, its end counts."""
    assert _moment(Event("STOP", {}, 0.0)) == "STOP"
    assert _moment(Event("MIGRATION", {"status": "completed"}, 0.0)) == "COMPLETED"
    assert _moment(Event("MIGRATION", {"status": "active"}, 0.0)) == ""
    assert _moment(Event("JOB_STATUS_CHANGE", {}, 0.0)) == ""


@pytest.mark.parametrize(
    ("verdict", "status"),
    [("right", Status.PASS), ("wrong", Status.FAIL), ("refused", Status.SKIP), ("endless", Status.SKIP)],
)
def test_flow_is_judged(verdict: str, status: Status) -> None:
    """A wrong one fails, and names the flow."""
    found = judge_flow("save/on", Found(verdict, "Because."))
    assert found.status is status
    if status is Status.FAIL:
        assert (found.violations[0].code, found.violations[0].fields["what"]) == (
            Code.ATTACH_LIBVIRT_FLOW,
            "save/on",
        )


def test_flow_that_is_known_to_be_wrong() -> None:
    """It has to be so: one that is right, or refused, shows that the finding is out of date."""
    known = KnownWrong("save/on", "F1")
    assert judge_flow("save/on", Found("wrong", "Because."), known).status is Status.PASS
    for verdict in ("right", "refused", "endless"):
        found = judge_flow("save/on", Found(verdict), known)
        assert found.status is Status.FAIL
        assert "F1" in found.violations[0].sentence


def test_flow_that_is_wrong_at_times() -> None:
    """It is no news then, and is judged as ever where it is not."""
    known = KnownWrong("dump-live/off", "F63", always=False)
    wrong = judge_flow("dump-live/off", Found("wrong", "Because."), known)
    assert (wrong.status, "F63" in wrong.reason) == (Status.SKIP, True)
    assert judge_flow("dump-live/off", Found("right"), known).status is Status.PASS


def test_known_flows() -> None:
    """By version of QEMU."""
    for label, version, finding in (
        ("save/on", "7.2.22 (Debian)", "F1"),
        ("save/on", "10.0.13 (Debian)", ""),
        ("save/off", "7.2.22", ""),
        ("snapshot-outside-live/on", "10.0.13", "F62"),
        ("snapshot-outside-live/off", "7.2.22", "F63"),
        ("snapshot-outside-live/off", "10.0.13", ""),
    ):
        known = known_wrong(label, version)
        assert (known.finding if known else "") == finding


def test_file_without_writers_proves_nothing() -> None:
    """Structure alone does not tell T0, and a check that fails is named."""
    assert wrong_file(Verdict((check("structure"),), {})) != ""
    failed = check("structure", "It is broken.")
    assert wrong_file(Verdict((failed,), {})).startswith("structure: It is broken.")
