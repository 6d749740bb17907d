"""Contract: a sweep finds each device that is wrong, names it, and is no success where nothing was tried."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.codes import Code
from harness.errors import NotApplicable, SetupBroken
from harness.status import Status
from tests_functional.devices import sweep as module
from tests_functional.devices.backends import Candidate
from tests_functional.devices.baseline import Baseline, Explained
from tests_functional.devices.creation import Creation
from tests_functional.devices.listing import ALL, DeviceType, Listing
from tests_functional.devices.passage import End, Passage
from tests_functional.devices.sweep import DEVICES_FILE, sweep
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_unit.support.scenario_values import make_run
from validators.checks import Problem

_CLOCK = Explained("clock", "It goes on.", (Code.DEVICES_DIFFERS,), ("rtc",), ("*",), ("1",), (), (), False)
_Wrong = Callable[[frozenset[str], bool], Sequence[Problem]]


def _differs(labels: frozenset[str], field: str) -> Problem:
    return Problem(Code.DEVICES_DIFFERS, f"{field} differs.", {"device": "+".join(labels), "field": field})


def _nothing(_labels: frozenset[str], _background: bool) -> Sequence[Problem]:
    return []


class _Qemu:
    """Stands for the QEMUs of a sweep: devices d0 to d19, whose guests are as `wrong` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wrong: _Wrong = _nothing, count: int = 20) -> None:
        self.guests: list[tuple[frozenset[str], bool]] = []
        self.refused: dict[str, Creation] = {}
        self.conflict = frozenset[str]()
        self.sections = frozenset({"timer (0)"})
        self._wrong = wrong
        listing = Listing({}, frozenset(), "")
        names = [f"d{number}" for number in range(count)]
        found = [Candidate(name, DeviceType(name, "", "", ()), ()) for name in names]
        found.append(Candidate("host", DeviceType("host", "", "", ()), (), "It needs the host."))
        monkeypatch.setattr(module._Sweep, "_list", lambda _self: listing)
        monkeypatch.setattr(module, "candidates", lambda _listing: iter(found))
        monkeypatch.setattr(module, "create", self._create)
        monkeypatch.setattr(module, "put_through", self._put_through)
        monkeypatch.setattr(module, "load_baseline", lambda *_: Baseline((_CLOCK,), 20))

    def _create(self, _stack: Any, one: Candidate, folder: Path) -> Creation:
        folder.mkdir(parents=True)
        return self.refused.get(one.label, Creation(True))

    def _put_through(
        self,
        _stack: Any,
        devices: Sequence[Candidate],
        folder: Path,
        *_: Any,
        background: bool,
        machine: frozenset[str],
    ) -> Passage:
        folder.mkdir(parents=True)
        labels = frozenset(one.label for one in devices)
        assert bool(machine) == bool(labels)
        self.guests.append((labels, background))
        if self.conflict <= labels and self.conflict:
            return Passage("+".join(labels), End.NOT_CREATED, "slot taken")
        problems = list(self._wrong(labels, background))
        end = End.WRONG if problems else End.RIGHT
        return Passage("+".join(labels) or "machine-alone", end, "", problems, self.sections)


@pytest.fixture(name="run")
def _run(tmp_path: Path) -> Run:
    made = make_run(tmp_path)
    return replace(made, stack=replace(made.stack, image=replace(made.stack.image, bare=True)))


def _ends(run: Run) -> dict[str, str]:
    lines = json.loads((run.folder / DEVICES_FILE).read_text(encoding="utf-8"))
    return {line["device"]: line["end"] for line in lines}


def _failed(outcome: Outcome) -> dict[str, list[Any]]:
    return {
        check.name: [(one.code, dict(one.fields)) for one in check.violations]
        for check in outcome.checks
        if check.status is Status.FAIL
    }


def test_devices_that_are_right_share_guests(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each device has a check of its own, and a guest takes at most eight."""
    qemu = _Qemu(monkeypatch)
    outcome = sweep(ALL)(run)
    assert outcome.status is Status.PASS
    assert [len(labels) for labels, _ in qemu.guests] == [0, 7, 7, 6]
    assert frozenset.union(*(labels for labels, _ in qemu.guests)) == {f"d{n}" for n in range(20)}
    assert outcome.figures["right"] == outcome.figures["created"] == 20
    assert {check.name for check in outcome.checks} == {
        "devices/sweep",
        "devices/machine-alone",
        *(f"devices/d{n}" for n in range(20)),
    }
    assert _ends(run)["host"] == "impossible"


def test_wrong_device_is_found_and_compared_with_an_ordinary_save(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It alone is red; its violation says device, field, and that an ordinary save does not show it."""

    def wrong(labels: frozenset[str], background: bool) -> Sequence[Problem]:
        return [_differs(labels, "rtc"), *([_differs(labels, "x")] if "d5" in labels and background else [])]

    qemu = _Qemu(monkeypatch, wrong)
    outcome = sweep(ALL)(run)
    assert outcome.status is Status.FAIL
    expected = (Code.DEVICES_DIFFERS, {"device": "d5", "field": "x", "control": "right"})
    assert _failed(outcome) == {"devices/d5": [expected]}
    assert (frozenset({"d5"}), False) in qemu.guests
    assert _ends(run) == {
        **{f"d{n}": "right" for n in range(20)},
        "d5": "wrong",
        "host": "impossible",
        "machine-alone": "right",
    }
    assert sorted(path.name for path in run.folder.glob("guest-*")) != []


def test_ordinary_save_that_shows_the_same_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is red all the same, and no matter of background snapshots."""
    _Qemu(monkeypatch, lambda labels, _: [_differs(labels, "x")] if "d5" in labels else [])
    outcome = sweep(ALL)(run)
    assert [fields["control"] for _, fields in _failed(outcome)["devices/d5"]] == ["same"]


def test_state_that_is_not_of_t0_has_no_control(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a comparison with an ordinary save already."""
    found = Problem(Code.DEVICES_NOT_AT_T0, "Other.", {"device": "d5", "field": "x"})
    _Qemu(monkeypatch, lambda labels, _: [found] if "d5" in labels else [])
    assert _failed(sweep(ALL)(run))["devices/d5"] == [(found.code, dict(found.fields))]


def test_devices_that_are_wrong_only_together_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halving loses the pair, so the guest with both is the one that is red."""
    together = {"d0", "d3"}
    _Qemu(monkeypatch, lambda labels, _: [_differs(labels, "x")] if together <= labels else [])
    (name,) = _failed(sweep(ALL)(run))
    assert {"d0", "d3"} <= set(name.removeprefix("devices/").split("+"))


def test_devices_that_cannot_share_a_guest_are_separated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """That QEMU does not make both at once is no fault."""
    qemu = _Qemu(monkeypatch)
    qemu.conflict = frozenset({"d0", "d3"})
    outcome = sweep(ALL)(run)
    assert outcome.status is Status.PASS
    assert outcome.figures["right"] == 20


def test_what_is_not_created_or_not_saved_is_counted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have QEMU's words, and no guest; fewer than in the baseline are said."""
    qemu = _Qemu(monkeypatch)
    qemu.refused = {"d1": Creation(False, "no TPM"), "d2": Creation(True, refusal="not migratable")}
    outcome = sweep(ALL)(run)
    assert outcome.status is Status.PASS
    assert (outcome.figures["right"], outcome.figures["created"]) == (18, 19)
    assert _ends(run)["d1"] == "not created"
    assert _ends(run)["d2"] == "refused"
    facts = outcome.checks[0].facts
    assert "QEMU creates 19 devices, 20 by the baseline." in facts.values()


def test_reason_that_explains_nothing_is_said_to_be_stale(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep of some devices cannot tell."""
    _Qemu(monkeypatch)
    assert "stale" in str(sweep(ALL)(run).checks[0].facts)
    (run.folder / DEVICES_FILE).unlink()
    for path in run.folder.glob("*/*"):
        path.rmdir()
    assert "stale" not in str(sweep("d1*")(run).checks[0].facts)


def test_explained_difference_is_counted_and_not_red(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its guests are counted by the reason."""
    _Qemu(monkeypatch, lambda labels, _: [_differs(labels, "rtc")])
    outcome = sweep(ALL)(run)
    assert outcome.status is Status.PASS
    assert outcome.checks[0].facts["explained: clock"] == 4
    assert "stale" not in str(outcome.checks[0].facts)


@pytest.mark.parametrize("created", [0, 5])
def test_sweep_that_creates_hardly_anything_is_an_error(
    run: Run, monkeypatch: pytest.MonkeyPatch, created: int
) -> None:
    """A list of arguments that no QEMU takes would be green otherwise."""
    qemu = _Qemu(monkeypatch)
    qemu.refused = {f"d{n}": Creation(False, "bad value") for n in range(created, 20)}
    with pytest.raises(SetupBroken, match=f"creates {created} of the 20 .* bad value"):
        sweep(ALL)(run)


def test_sweep_needs_a_bare_guest(tmp_path: Path) -> None:
    """Hundreds of boots of another one take hours."""
    with pytest.raises(NotApplicable, match="bare"):
        sweep(ALL)(make_run(tmp_path))
