"""Contract: a run's text says in one place what failed, and what was seen that is nobody's fault here."""

from __future__ import annotations

from dataclasses import replace

from harness.linux.kernel_log import NOTES
from harness.status import Status
from snapproof.cli.verdict_text import outcome_lines
from tests_unit.support.scenario_values import outcome


def test_kernel_messages_about_others_are_notes() -> None:
    """Also beside a PASS, each once, short, and without control characters."""
    said = "#9 traps: cc1[90] general protection fault\x1b[2J " + "x" * 1000
    check = {"name": "01-live: host", "status": "PASS", "explanation": "", "facts": {NOTES[0]: said}}
    found = replace(outcome("a", Status.PASS), checks=(check, {**check, "name": "02-seeds: host"}))
    notes = [line for line in outcome_lines(found) if "note:" in line]
    assert len(notes) == 1
    assert notes[0].startswith("      note: kernel messages about others: #9 traps: cc1[90]")
    assert "\x1b" not in notes[0]
    assert len(notes[0]) < 400


def test_other_facts_are_no_notes() -> None:
    """Figures stay in results.json."""
    check = {"name": "host", "status": "PASS", "explanation": "", "facts": {"pages": 3}}
    assert not [
        line for line in outcome_lines(replace(outcome("a", Status.PASS), checks=(check,))) if "note" in line
    ]
