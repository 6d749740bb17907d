"""Values for unit tests: what hosts report, and plans for hosts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests_functional.hosts.examination import HostPlan
from tests_functional.hosts.snapshots import REFUSAL, Report

STARTED = {"event": "started", "version": {"qemu": {"major": 10, "minor": 0, "micro": 13}}}


def refused(text: str = REFUSAL, state: str = "running") -> Report:
    """Return the report of a host on which QEMU refuses a background snapshot."""
    event = {"event": "refused", "flow": "background", "text": text, "trace": [], "state": state}
    return Report((STARTED, event))


def saved(**changes: Any) -> Mapping[str, Any]:
    """The event of a background snapshot, STOP to RESUME in 62 ms."""
    stamps = [{"seconds": 100, "microseconds": 250_000}, {"seconds": 100, "microseconds": 312_000}]
    names = ("STOP", "RESUME")
    return {
        "event": "saved",
        "flow": "background",
        "bytes": 1000,
        "migrate": {"downtime": 62, "total-time": 900, "ram": {"normal": 5, "duplicate": 2}},
        "events": [{"event": name, "timestamp": stamp} for name, stamp in zip(names, stamps, strict=True)],
        "steps_before": [5],
        "steps_completed": [9],
        **changes,
    }


def host_plan(folder: Path, **changes: Any) -> HostPlan:
    """Return a plan that does nothing on a host, except for the changes."""
    given: dict[str, Any] = {
        "name": "made",
        "places": lambda _: None,
        "sinks": {},
        "own": False,
        "folder": folder,
        **dict.fromkeys(("expected", "warm", "sparse", "tests", "helper", "fault")),
    }
    return HostPlan(**{**given, **changes})
