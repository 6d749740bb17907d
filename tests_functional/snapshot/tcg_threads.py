"""Takes live snapshots under TCG, with all vCPUs in one thread or each in its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from harness.errors import NotApplicable
from harness.qemu.probe import probe_qemu
from tests_functional.lib.flows import one_flow
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow


def tcg_threads(threads: str) -> Callable[[Run], Outcome]:
    """Return a scenario that takes live snapshots under TCG with `single` or `multi` threads of vCPUs."""
    return lambda run: _under_tcg(run, threads)


def _under_tcg(run: Run, threads: str) -> Outcome:
    if "tcg" not in probe_qemu(str(run.stack.executable)).accelerators:
        raise NotApplicable("This QEMU is built without TCG.")
    return one_flow(Flow.LIVE)(replace(run, stack=replace(run.stack, accel=f"tcg,thread={threads}")))
