"""Contract: a save to nowhere is refused or fails with a reason; a cancelled one makes room for the next."""

from __future__ import annotations

from typing import Any

import pytest

from harness.codes import Code
from tests_functional.explore import destinations
from tests_functional.explore.model import PAUSED, RUNNING, Model
from tests_unit.support.explored_session import codes_of, stand_in_session

_SAVING = Model().begun(RUNNING)
_GOES_ON = {"status": "active", "ram": {"remaining": 32 << 20}}
_NOWHERE = {"destination": "no-socket", "snapshot": True}
_NO_YANK: dict[str, Any] = {"query-yank": []}
_YANK: dict[str, Any] = {"query-yank": [{"type": "migration"}]}


@pytest.mark.parametrize(
    ("answer", "codes"),
    [
        ({"status": "failed", "error-desc": "no such file"}, []),
        ({"status": "failed", "error-desc": " "}, [Code.SAVE_NO_REASON]),
        ({"status": "completed"}, [Code.SAVE_WRONG_END]),
        ({"status": "setup"}, [Code.SAVE_UNFINISHED]),
    ],
)
def test_a_save_to_nowhere_fails_with_a_reason(answer: dict[str, str], codes: list[Code]) -> None:
    """It is not completed, and does not go on for ever."""
    session = stand_in_session(Model(), answer=answer, answers=_NO_YANK)
    assert destinations.save_nowhere(session, _NOWHERE)
    assert codes_of(session) == codes
    assert session.qmp.arguments["migrate"] == {"uri": "unix:/nonexistent/explored"}


def test_a_refused_save_is_right_and_the_capability_is_put_back() -> None:
    """It was off before."""
    session = stand_in_session(Model(), {"migrate": "no"}, answers=_NO_YANK)
    assert destinations.save_nowhere(session, _NOWHERE)
    assert not session.failed
    assert session.qmp.given.count("migrate-set-capabilities") == 2
    last = session.qmp.arguments["migrate-set-capabilities"]["capabilities"]
    assert last == [{"capability": "background-snapshot", "state": False}]


def test_in_mid_save_all_destinations_are_refused() -> None:
    """Accepted they are noted."""
    accepted = stand_in_session(_SAVING, answer=_GOES_ON)
    assert destinations.save_nowhere(accepted, _NOWHERE)
    assert codes_of(accepted) == [Code.DURING_SAVE_ACCEPTED]
    refused = stand_in_session(_SAVING, {"migrate": "in progress"}, _GOES_ON)
    destinations.save_nowhere(refused, _NOWHERE)
    assert not refused.failed


@pytest.mark.parametrize("model", [_SAVING, Model(run_state=PAUSED)])
def test_where_they_do_not_apply(model: Model) -> None:
    """Near the end of a save QEMU may accept one; a stopped guest may be continued by a failed one (F1)."""
    session = stand_in_session(model, answer={"status": "completed"})
    assert not destinations.save_nowhere(session, _NOWHERE)
    assert not destinations.cancel_unconnected(session, {"snapshot": True})
    assert session.qmp.given == []


@pytest.mark.parametrize(
    ("status", "answers", "codes"),
    [
        ("cancelled", _NO_YANK, []),
        ("cancelling", _YANK, [Code.SAVE_UNFINISHED]),
        ("cancelled", _YANK, [Code.SAVE_NOT_CLEANED_UP]),
    ],
)
def test_a_cancelled_save_makes_room(status: str, answers: dict[str, Any], codes: list[Code]) -> None:
    """Also one whose connection nobody accepts: cancelled, and cleaned up after."""
    session = stand_in_session(Model(), answer={"status": status}, answers=answers)
    assert destinations.cancel_unconnected(session, {"snapshot": True})
    assert codes_of(session) == codes
    assert session.qmp.given[1:3] == ["migrate", "migrate_cancel"]


def test_no_destination_leads_anywhere() -> None:
    """None names a file, a program or a host that there may be."""
    for given in destinations.DESTINATIONS.values():
        text = str(given)
        assert "/" not in text.replace("/nonexistent/explored", "").replace(f"/{'x' * 300}", "")
        assert not any(host in text for host in ("localhost", "::1"))
