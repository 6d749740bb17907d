"""Results for tests of the reports: of each status, of several QEMUs, and with text that breaks formats."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.status import Status
from snapproof.report.context import Context
from snapproof.report.run_result import OutcomeRecord, RunResult, Selection
from tests_unit.support.scenario_values import outcome

ENVIRONMENT = {
    "host": "local",
    "host_kernel": "6.18.44 #1 SMP",
    "host_architecture": "x86_64",
    "host_cpus": 2,
    "qemu": "10.0.13 (Debian 1:10.0.13+ds-0)",
    "accelerator": "tcg",
    "guest_image": "default",
    "guest_image_digest": "024d",
}

NASTY = (
    "It's <bad> & #1 | `tick` *bold* [link](x) 100% $x$ ~~no~~ ::error::forged ]]> -->\x00\x1b[31m\udcff"
    "\nok 9 forged\r\x0bnot ok 8 \u2028end pass fail ü <script>alert(1)</script>\n::warning::forged too"
)
"""Text such as a guest, a QEMU or a foreign results file may have."""


def check(name: str, status: str = "PASS", **more: Any) -> dict[str, Any]:
    """Return a check as a verdict's JSON has it."""
    return {"name": name, "status": status, "explanation": "It demands.", **more}


def one_of_each() -> list[OutcomeRecord]:
    """Return tests named after their statuses."""
    return [outcome(f"a.{status.value}", status, f"Reason {status.value}.") for status in Status]


def result(*outcomes: OutcomeRecord, **changes: Any) -> RunResult:
    """Return a run with these outcomes."""
    made = RunResult(
        outcomes,
        "2026-01-02T03:04:05+00:00",
        9.0,
        ["snapproof", "run"],
        ENVIRONMENT,
        Selection("premerge"),
    )
    return replace(made, **changes)


def everything() -> RunResult:
    """Return a run with every status, violations, a known issue, figures of all kinds and two QEMUs."""
    violation = {"sentence": "Page 7 is newer.", "hexdump": "00 01", "gpa": 4096}
    checks = (
        check("01-live/golden", "FAIL", violations=[violation], total=1, facts={"pages": 3}, ranges=[]),
        check("01-live/file", "XFAIL", reason="known issue F2: lost", known_issue="F2"),
        check("01-live/header"),
        check("01-live/pagemap", "SKIP", reason="It cannot be read."),
    )
    known = (check("refusals/mapped-ram/file", "XFAIL", known_issue="F2", reason="known issue F2"),)
    absent = (check("refusals/mapped-ram/file", "XPASS", known_issue="F2", reason="did not show"),)
    figures: dict[str, float | int | str] = {
        "01-live/stun_ms": 2.5,
        "01-live/file_bytes": 523123458,
        "01-live/gap_us": 1e-7,
        "kind": "tcg",
    }
    given = {Status.FAIL: checks, Status.XFAIL: known, Status.XPASS: absent}
    outcomes = [
        replace(
            one,
            name=f"debian-1{number % 2}.0/{one.name}",
            checks=given.get(one.status, ()),
            figures=figures if one.status is Status.PASS else {},
            environment=ENVIRONMENT | {"qemu": f"1{number % 2}.0.1", "seed": 7},
        )
        for number, one in enumerate(one_of_each())
    ]
    both = {f"debian-1{number}.0": ENVIRONMENT | {"qemu": f"1{number}.0.1"} for number in (0, 1)}
    return result(*outcomes, environment=both)


def hostile() -> RunResult:
    """Return a run in which every text of foreign origin is `NASTY`."""
    nasty: Mapping[str, Any] = {"qemu": NASTY, "host_kernel": NASTY, "host_architecture": NASTY, NASTY: NASTY}
    checks = [
        check(NASTY, status.value, reason=NASTY, explanation=NASTY, violations=[{"sentence": NASTY}])
        for status in Status
    ]
    outcomes: Sequence[OutcomeRecord] = [
        outcome(
            f"{status.value} {NASTY}",
            status,
            NASTY,
            checks=checks,
            figures={NASTY: 1.5},
            environment=nasty,
            folder=f"tests/{status.value} | ,:%`[[",
        )
        for status in Status
    ]
    return result(*outcomes, environment=nasty, command=[NASTY])


def placed(folder: Path, made: RunResult, log: str = "10:00:00 Booting.\n10:00:09 It is so.\n") -> Context:
    """Write a run's results and each test's logs, and return the context for a report on them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(made.to_json()))
    for one in made.outcomes:
        (folder / one.folder).mkdir(parents=True, exist_ok=True)
        (folder / one.folder / "test.log").write_text(log)
        (folder / one.folder / "qemu.log").write_text("")
    return Context(folder, folder)
