"""Contract: an outcome survives its file whole; a summary says in one sentence what is wrong and where."""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from harness.codes import Code
from harness.errors import (
    Evidence,
    MachineryMissing,
    NotApplicable,
    SetupBroken,
    SnapproofError,
    SubjectFailed,
)
from harness.qemu.configuration import Flash
from harness.status import Status
from snapproof.report.run_result import OutcomeRecord
from tests_functional.lib.build_outcome import Cycle, build_outcome, outcome_of_cycles
from tests_functional.lib.machines import with_flash
from tests_functional.lib.outcome import OUTCOME_FILE, Outcome, from_error, write_atomically
from tests_functional.lib.save import Flow
from tests_functional.lib.stack_file import load_stack, save_stack
from tests_unit.support.scenario_values import check, make_run, offline, snapshot, stack, write_order
from validators.checks import skipped
from validators.verdict import CheckResult, Violation


def _cycle(label: str, flow: Flow, stun_ms: float, *checks: CheckResult) -> Cycle:
    return Cycle(label, snapshot(flow, stun_ms=stun_ms), offline(write_order(), *checks))


def test_round_trip(tmp_path: Path) -> None:
    """The command reads an outcome as the test saved it, with checks and figures."""
    wrong = check("golden", "It differs.", code=Code.GOLDEN_DIFFERS)
    violation = Violation("host", Code.HOST_FILE_CLOSED, "Gone.", fields={"number": 0, "name": "/dev/null"})
    made = Outcome(
        "a.b",
        Status.XFAIL,
        "Ümlaut \udcff.",
        checks=(replace(wrong, known_issue="F1"), replace(wrong, name="host", violations=(violation,))),
        figures={"01/stun_ms": 1.25, "pages": 7, "checksums": "ab"},
        environment={"seed": 5, "evidence": {"paths": ["a"]}},
    )
    made.save(tmp_path)
    read = OutcomeRecord.from_json(json.loads((tmp_path / OUTCOME_FILE).read_text(encoding="utf-8")))
    assert read.to_json() == made.to_json()
    assert (read.status, read.figures, read.environment) == (made.status, made.figures, made.environment)
    assert read.known_issues(Status.FAIL) == {"F1"}
    assert read.checks[0]["violations"] == [
        {"check": "golden", "code": "golden.differs", "sentence": "It differs."}
    ]
    assert read.checks[1]["violations"] == [
        {
            "check": "host",
            "code": "host.file-closed",
            "sentence": "Gone.",
            "fields": {"number": 0, "name": "/dev/null"},
        }
    ]
    assert [path.name for path in tmp_path.iterdir()] == [OUTCOME_FILE]


def test_full_disk_leaves_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader finds the old text or the new one, never a part, and no draft stays."""
    path = tmp_path / "file"
    write_atomically(path, "old")
    real = Path.write_text

    def full(path: Path, text: str, **more: str) -> int:
        real(path, text[:2], **more)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new text")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_file_that_is_replaced_keeps_its_mode(tmp_path: Path) -> None:
    """A results file that others may read or may not read stays so."""
    path = tmp_path / "file"
    write_atomically(path, "old")
    path.chmod(0o604)
    write_atomically(path, "new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o604)


def test_seconds_are_rounded_to_milliseconds() -> None:
    """More digits would be noise."""
    assert Outcome("a", Status.PASS, "Right.", seconds=1.23456).to_json()["seconds"] == 1.235


def test_interruption_leaves_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for Ctrl-C between writing and renaming."""

    def interrupted(_path: Path, _target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", "text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (SubjectFailed, Status.FAIL),
        (SetupBroken, Status.ERROR),
        (MachineryMissing, Status.MISS),
        (NotApplicable, Status.SKIP),
    ],
)
def test_error_becomes_an_outcome(tmp_path: Path, kind: type[SnapproofError], status: Status) -> None:
    """The error's class decides the status, and the file has its evidence."""
    error = kind("It is so.", Evidence(("qemu", "-x"), -9, "last words", (tmp_path / "qemu.log",)))
    made = from_error("a.b", error, 2.0, {"seed": 5})
    assert (made.status, made.sentence) == (status, "It is so.")
    made.save(tmp_path)
    environment = json.loads((tmp_path / OUTCOME_FILE).read_text())["environment"]
    assert environment["seed"] == 5
    assert environment["evidence"] == {
        "command": ["qemu", "-x"],
        "exit_code": -9,
        "log_tail": "last words",
        "paths": [str(tmp_path / "qemu.log")],
    }


def test_stack_file_round_trip(tmp_path: Path) -> None:
    """A test runs on the very stack that the command set up."""
    made = stack(tmp_path)
    save_stack(made, {"qemu": "10.0"}, tmp_path)
    assert load_stack(tmp_path) == (made, {"qemu": "10.0"})


def test_stack_file_has_the_firmware_of_tests_that_name_it(tmp_path: Path) -> None:
    """The run's own stays that of all other tests."""
    uefi, own = (Flash(name, tmp_path / "code", tmp_path / "variables") for name in ("uefi", "own"))
    made = stack(tmp_path)
    save_stack(made, {}, tmp_path, uefi=uefi)
    assert load_stack(tmp_path)[0] == made
    assert load_stack(tmp_path, uefi=True)[0] == with_flash(made, uefi)
    save_stack(with_flash(made, own), {}, tmp_path, uefi=uefi)
    assert load_stack(tmp_path)[0] == with_flash(made, own)
    assert load_stack(tmp_path, uefi=True)[0] == with_flash(made, uefi)


def test_summary_of_right_snapshots(tmp_path: Path) -> None:
    """PASS, the promise in one sentence, and each figure under its snapshot's label."""
    golden = check("golden", facts={"pages compared": 64})
    cycles = [
        _cycle("01-live", Flow.LIVE, 3.0, check("overlap", facts={"pages_written_during_save": 185})),
        _cycle(
            "02-seeds", Flow.STOP_MIGRATE_CONT, 400.0, golden, check("restored-memory", facts={"pages": 1000})
        ),
        _cycle("03-stop", Flow.STOP_AND_SAVE, 300.0),
    ]
    made = outcome_of_cycles(make_run(tmp_path), cycles, 12.0)
    assert made.status is Status.PASS
    assert made.sentence == ("All 3 snapshots are exactly the guest at T0, and the guest went on unharmed.")
    assert made.figures["01-live/pages_in_stream"] == 64
    assert made.figures["01-live/agent_pages_verified_offline"] == 1000
    assert made.figures["01-live/pages_written_during_save"] == 185
    assert made.figures["02-seeds/pages_compared_with_golden"] == 64
    assert made.figures["02-seeds/agent_pages_verified_in_restored_guest"] == 1000
    assert made.figures["stun_ratio"] == 100.0
    names = {entry.name for entry in made.checks}
    assert {"01-live/write-order", "02-seeds/golden", "stun-ratio"} <= names
    assert (made.environment["seed"], made.environment["host_kernel"]) == (5, "6.18")


def test_summary_of_one_snapshot(tmp_path: Path) -> None:
    """A test without a control compares no stuns, and one that skipped a check still says PASS."""
    cycle = _cycle("01-live", Flow.LIVE, 3.0, skipped("source-unprotected", "It demands.", "No pagemap."))
    made = outcome_of_cycles(make_run(tmp_path), [cycle], 12.0)
    assert made.status is Status.PASS
    assert made.sentence.startswith("The snapshot is exactly the guest at T0")
    assert "stun_ratio" not in made.figures


def test_summary_names_label_check_and_first_violation(tmp_path: Path) -> None:
    """FAIL: where, by what, the first violation, and how many more there are."""
    cycles = [
        _cycle("01-live", Flow.LIVE, 3.0),
        _cycle("02-live", Flow.LIVE, 3.0, check("golden", "Page 7 differs.", "Page 8 differs.")),
    ]
    made = outcome_of_cycles(make_run(tmp_path), cycles, 12.0)
    assert made.status is Status.FAIL
    assert made.sentence == "02-live: golden: Page 7 differs. (1 more violations)"


@pytest.mark.parametrize(
    ("lives", "control", "status"),
    [((3.0,), 59.0, Status.FAIL), ((3.0,), 60.0, Status.PASS), ((1.0, 2.0, 900.0), 45.0, Status.PASS)],
)
def test_stun_ratio(tmp_path: Path, lives: tuple[float, ...], control: float, status: Status) -> None:
    """Below 20 it fails; of several live snapshots the shortest counts."""
    cycles = [_cycle(f"{number:02d}-live", Flow.LIVE, stun) for number, stun in enumerate(lives)]
    made = outcome_of_cycles(
        make_run(tmp_path), [*cycles, _cycle("09-stop", Flow.STOP_AND_SAVE, control)], 12.0
    )
    assert made.status is status


def test_stun_ratio_names_both_figures(tmp_path: Path) -> None:
    """A person sees both stuns and the guest's size, not just a ratio."""
    cycles = [_cycle("01-live", Flow.LIVE, 30.0), _cycle("02-stop", Flow.STOP_AND_SAVE, 300.0)]
    made = outcome_of_cycles(make_run(tmp_path), cycles, 12.0)
    assert made.status is Status.FAIL
    assert made.sentence == (
        "all: stun-ratio: At 512 MiB the background snapshot stuns the guest for 30.0 ms "
        "and stop-and-save for 300.0 ms, a ratio of 10.0."
    )


def test_outcome_of_no_check_is_an_error() -> None:
    """A test that has checked nothing has not passed."""
    made = build_outcome("a.b", [], 1.0, "It holds.", {})
    assert (made.status, made.sentence) == (Status.ERROR, "No check could be made.")


def test_outcome_of_checks() -> None:
    """The worst check decides; the first violation of such a check is told, and how many there are in all."""
    passed, none = check("a"), skipped("b", "It demands.", "No pagemap.")
    assert build_outcome("t", [passed, none], 1.0, "It holds.", {}).sentence == "It holds."
    left_out = build_outcome("t", [none], 1.0, "It holds.", {})
    assert (left_out.status, left_out.sentence) == (Status.SKIP, "b: No pagemap.")
    wrong = [check("c", "One."), check("d", "Two.", "Three.")]
    made = build_outcome("t", [passed, none, *wrong], 1.5, "It holds.", {"seed": 5}, {"stun_ms": 2.5})
    assert (made.status, made.sentence) == (Status.FAIL, "c: One. (2 more violations)")
    assert build_outcome("t", wrong[:1], 1.0, "It holds.", {}).sentence == "c: One."
    assert (made.name, made.seconds, made.figures, made.environment) == (
        "t", 1.5, {"stun_ms": 2.5}, {"seed": 5},
    )  # fmt: skip
