"""Contract: the main job measures as many stuns as its verdict needs, and no verdict depends on fewer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.status import Status
from tests_functional.lib import flows
from tests_functional.lib.build_outcome import Cycle
from tests_functional.lib.flows import save_by_flows
from tests_functional.lib.save import Flow
from tests_unit.support.scenario_values import check, make_run, offline, snapshot

_STUNS_MS = {Flow.LIVE: 5.0, Flow.STOP_AND_SAVE: 60.0}


@pytest.mark.parametrize(
    ("flow_list", "samples", "used", "status"),
    [
        ([Flow.LIVE, Flow.STOP_AND_SAVE], [4.0, 3.0, 1.0], 2, Status.PASS),
        ([Flow.LIVE, Flow.STOP_AND_SAVE], [4.0, 4.0, 4.0], 3, Status.FAIL),
        ([Flow.LIVE, Flow.STOP_AND_SAVE], [2.9, 4.0, 4.0], 1, Status.PASS),
        ([Flow.LIVE], [4.0, 4.0, 4.0], 0, Status.PASS),
    ],
)
def test_stuns_are_measured_until_one_is_short(
    flow_list: list[Flow],
    samples: list[float],
    used: int,
    status: Status,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three at most; the first that is short enough ends it, and without a control there is none."""
    left = list(samples)

    @contextmanager
    def guest(_run: Any) -> Iterator[Any]:
        yield SimpleNamespace(guest=SimpleNamespace(machine=SimpleNamespace(quit=lambda: None)))

    def cycle(_run: Any, _source: Any, flow: Flow, label: str) -> Cycle:
        return Cycle(label, snapshot(flow, stun_ms=_STUNS_MS[flow]), offline(check("structure")))

    monkeypatch.setattr(flows, "writing_guest", guest)
    monkeypatch.setattr(flows, "snapshot_cycle", cycle)
    monkeypatch.setattr(flows, "sample_stun", lambda *_: left.pop(0))
    outcome = save_by_flows(make_run(tmp_path), flow_list, len(samples))
    assert (len(samples) - len(left), outcome.status) == (used, status)
