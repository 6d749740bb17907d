"""Two QEMUs to be compared: guests that start from the same file, and one figure of one save of either."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import SetupBroken, SubjectFailed
from tests_functional.scenarios.bench.measure import Sample, measure
from tests_functional.scenarios.bench.warm_guest import WarmGuest, remove, started, warm_guest
from tests_functional.scenarios.bench.ways import Way
from tests_functional.scenarios.bench.writers import Writer
from tests_functional.scenarios.guest import Stack
from validators.stream.reader import read_index
from validators.stream.source import open_source

WAY = Way.BACKGROUND_EXEC
_WARM_SECONDS, _START_SECONDS = 300.0, 120.0


@dataclass(frozen=True)
class Metric:
    """A figure of a save; less is better.

    Attributes:
        what: what it is, for people.
        unit: of it.
        resolution: the least difference that it can have, in its unit.
        of: takes it from a sample, None where QEMU gave none.
    """

    what: str
    unit: str
    resolution: float
    of: Callable[[Sample], float | None]


METRICS: Mapping[str, Metric] = {
    "total": Metric("time from the command to the completed save", "ms", 0.001, lambda one: one.total_ms),
    "stun": Metric("STOP to RESUME by QEMU's event times", "ms", 0.001, lambda one: one.stun_ms),
    "downtime": Metric("QEMU's own downtime", "ms", 1.0, lambda one: one.downtime_ms),
    "stall-p99": Metric(
        "page write of the guest that 99 % do not exceed", "us", 0.001, lambda one: one.stall_us["p99"]
    ),
    "size": Metric("size of the file", "bytes", 1.0, lambda one: one.size_bytes),
}


@dataclass(frozen=True)
class TwoSides:
    """Guests of two QEMUs.

    Attributes:
        a: of the one that is the measure.
        b: of the one that is judged.
        common: whether both start from the same file; else each has booted its own guest, and what lies where
            in the guests' memory differs for good.
    """

    a: WarmGuest
    b: WarmGuest
    common: bool


@contextmanager
def two_sides(
    a: Stack, b: Stack, writer: Writer, folder: Path, log: Callable[[str], None], seed: int
) -> Iterator[TwoSides]:
    """Boot and save a guest that both can start from, or one for each.

    Args:
        a: the one side, RAM as it is to be.
        b: the other.
        writer: what writes.
        folder: of its own; receives the files, which are removed on leaving.
        log: told what takes time.
        seed: of the write order.

    Raises:
        SetupBroken: the guest does not answer or has too little memory.
        SubjectFailed: a QEMU failed.
    """
    with ExitStack() as files:

        def saved(stack: Stack, name: str) -> WarmGuest:
            log(f"Booting a guest with {name} ({stack.ram_mib} MiB, {stack.accel}), to start from.")
            warm = files.enter_context(
                warm_guest(stack, writer, folder / name, Deadline(_WARM_SECONDS), seed)
            )
            with open_source(warm.snapshot.path) as file:
                machine = read_index(file).configuration.machine
            return replace(warm, stack=replace(stack, machine=machine))

        of_a = saved(a, "A")
        if a.executable == b.executable:
            yield TwoSides(of_a, of_a, common=True)
            return
        if _starts(with_qemu := _on(b, of_a), folder / "start"):
            yield TwoSides(of_a, with_qemu, common=True)
            return
        log("B does not start from what A has saved.")
        of_b = saved(b, "B")
        if _starts(with_qemu := _on(a, of_b), folder / "start"):
            yield TwoSides(with_qemu, of_b, common=True)
            return
        log("A does not start from what B has saved either; each has a guest of its own.")
        yield TwoSides(of_a, of_b, common=False)


def _on(stack: Stack, warm: WarmGuest) -> WarmGuest:
    """The same guest, started by another QEMU."""
    return replace(warm, stack=replace(warm.stack, executable=stack.executable))


def _starts(warm: WarmGuest, folder: Path) -> bool:
    try:
        with started(warm, folder, WAY, Deadline(_START_SECONDS)):
            return True
    except SubjectFailed:
        return False
    finally:
        remove(folder)


def figure(warm: WarmGuest, metric: Metric, folder: Path) -> float:
    """Start a guest afresh, save it once by a background snapshot, and take the figure.

    Args:
        warm: the guest.
        metric: which figure.
        folder: of its own; removed unless the save fails.

    Raises:
        NotApplicable: this QEMU or host has no background snapshots.
        SetupBroken: the save failed, or gave no such figure.
    """
    sample = measure(warm, WAY, folder, around_seconds=0.0)
    if not sample.measured:
        raise SetupBroken(
            f"A save by '{warm.stack.executable}' failed, so nothing is compared: {sample.error}"
        )
    value = metric.of(sample)
    if not value:
        raise SetupBroken(f"'{warm.stack.executable}' gave no figure for the {metric.what}.")
    return float(value)
