"""Contract: a guest that is stopped a second time is seen, a busy host is not taken for one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from guest_images.cache import Cache, default_cache_folder
from guest_images.provisioning import Provisioning
from harness.codes import Code
from harness.errors import NotApplicable, SetupBroken
from harness.status import Status
from snapproof.cli.command import main
from snapproof.runs.stack import find_qemu
from tests_functional.lib.known_issues import load_known_issues
from tests_functional.lib.measure.cases import Way
from tests_functional.lib.measure.sample import Sample
from tests_functional.lib.outcome import Outcome
from tests_functional.snapshot import timers
from tests_unit.support.scenario_values import make_run

Measure = Callable[[Way, int], Sample]


def _sample(way: Way, gap_ms: float | None, **more: Any) -> Sample:
    return Sample(1024, way.value, "all", "unlimited", 1, guest_clock_gap_ms=gap_ms, **more)


@pytest.fixture(name="outcome")
def _outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """The scenario with saves that find what they are told to, and a guest that has such gaps left alone."""

    def run(found: Measure, calm_ms: float = 12.0) -> Outcome:
        @contextmanager
        def guest(*_: object) -> Iterator[Any]:
            yield SimpleNamespace(counters=SimpleNamespace(longest_heartbeat_gap=lambda: calm_ms / 1e3))

        monkeypatch.setattr(timers, "warm_guest", guest)
        monkeypatch.setattr(timers, "started", guest)
        monkeypatch.setattr(timers, "_CALM_SECONDS", 0.0)
        monkeypatch.setattr(timers, "measure", lambda _warm, way, _folder, **more: found(way, more["repeat"]))
        return timers.timers_go_on(make_run(tmp_path))

    return run


def _by_file(gaps_ms: dict[int, float]) -> Measure:
    """Commands always do well; a file has these gaps, by number of the save."""
    return lambda way, number: _sample(way, gaps_ms[number] if way is Way.BACKGROUND_FILE else 20.0)


def test_timers_that_go_on(outcome: Callable[..., Outcome]) -> None:
    """Green, with what was found."""
    found = outcome(_by_file(dict.fromkeys(range(1, 6), 99.0)))
    assert found.status is Status.PASS
    assert [check.facts for check in found.checks] == [
        {"largest_clock_gap_ms": 20.0},
        {"largest_clock_gap_ms": 99.0},
    ]
    assert found.figures == {"clock_gap_without_a_save_ms": 12.0}


def test_second_stop_is_seen(outcome: Callable[..., Outcome]) -> None:
    """In three saves of five, with the code by which the known issue recognises it."""
    found = outcome(_by_file({1: 20, 2: 300, 3: 310, 4: 20, 5: 305}))
    assert found.status is Status.FAIL
    by_command, by_file = found.checks
    assert by_command.status is Status.PASS
    (violation,) = by_file.violations
    assert violation.code is Code.TIMERS_STOOD_STILL
    assert violation.sentence == "The guest's timers stopped for 300 ms of a save (median of 5)."
    (issue,) = (issue for issue in load_known_issues() if issue.id == "F18")
    assert issue.explains(by_file, {"qemu": "10.0.13"})


def test_one_busy_moment_is_no_second_stop(outcome: Callable[..., Outcome]) -> None:
    """Two of five are the host's."""
    assert outcome(_by_file({1: 20, 2: 300, 3: 310, 4: 20, 5: 20})).status is Status.PASS


def test_busy_host_is_blamed(outcome: Callable[..., Outcome]) -> None:
    """The test breaks if timers are late without a save: that says nothing about QEMU."""
    with pytest.raises(SetupBroken, match="stop for 150 ms while nothing is saved"):
        outcome(_by_file(dict.fromkeys(range(1, 6), 300.0)), calm_ms=150.0)


def test_qemu_without_files_is_judged_by_commands(outcome: Callable[..., Outcome]) -> None:
    """The other check says why it could not be made."""

    def found(way: Way, _number: int) -> Sample:
        if way is Way.BACKGROUND_FILE:
            raise NotApplicable("This QEMU has no migration transport 'file:'.")
        return _sample(way, 20.0)

    judged = outcome(found)
    assert judged.sentence == "The guest's timers went on while it was saved (background-exec)."
    by_command, by_file = judged.checks
    assert (by_command.status, by_file.status) == (Status.PASS, Status.SKIP)
    assert "file:" in by_file.reason


def test_save_that_fails_is_red(outcome: Callable[..., Outcome]) -> None:
    """QEMU's fault, and no further save is tried."""
    tried = []

    def found(way: Way, number: int) -> Sample:
        tried.append(number)
        return _sample(way, None, error="It broke.", status=Status.FAIL)

    said = [violation.sentence for check in outcome(found).checks for violation in check.violations]
    assert said == ["Save 1 failed: It broke."] * 2
    assert tried == [1, 1]


def test_save_that_says_nothing_is_no_verdict(outcome: Callable[..., Outcome]) -> None:
    """A save that could not be measured breaks the test: it neither passes nor fails."""
    with pytest.raises(SetupBroken, match="could not be measured: No room"):
        outcome(lambda way, _number: _sample(way, None, error="No room.", status=Status.ERROR))


_HELD_UP = """#!/bin/sh
{python} -c '
import os, signal, sys, time
pid = int(sys.argv[1])
def saving():
    names = (open(f"/proc/{{pid}}/task/{{task}}/comm").read() for task in os.listdir(f"/proc/{{pid}}/task"))
    return any("snapshot" in name for name in names)
while not saving():
    time.sleep(0.01)
time.sleep(0.1)
os.kill(pid, signal.SIGSTOP)
time.sleep(0.3)
os.kill(pid, signal.SIGCONT)
' $$ >/dev/null 2>&1 &
exec {qemu} "$@"
"""
"""A QEMU that stops once in its first background snapshot; the watcher ends with it by an error."""


@pytest.mark.vm
@pytest.mark.timeout(600)
def test_real_qemu_that_stands_still_is_seen(tmp_path: Path) -> None:
    """A stop during a save by a command, which no known issue explains, fails with its milliseconds."""
    qemu = find_qemu(None, Provisioning(Cache(default_cache_folder()), lambda _: None))
    held_up = tmp_path / "held-up"
    held_up.write_text(_HELD_UP.format(python=sys.executable, qemu=qemu.executable))
    held_up.chmod(0o755)
    words = ["run", "--profile", "nightly", "--filter", "snapshot.timers", "--qemu", str(held_up)]
    assert main([*words, "--results", str(tmp_path / "results")]) == 1
    (test,) = json.loads((tmp_path / "results" / "results.json").read_text())["tests"]
    (by_command,) = (check for check in test["checks"] if check["name"] == "timers/exec")
    (violation,) = by_command["violations"]
    assert violation["sentence"].startswith("The guest's timers stopped for 3")
