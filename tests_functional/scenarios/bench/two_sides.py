"""Two QEMUs of this host to be compared: guests that start from the same file, where that can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import SetupBroken, SubjectFailed
from tests_functional.scenarios.bench.measure import Sample, measure
from tests_functional.scenarios.bench.sides import METRICS, TwoSides, comparable
from tests_functional.scenarios.bench.warm_guest import WarmGuest, remove, started, warm_guest
from tests_functional.scenarios.bench.ways import Way
from tests_functional.scenarios.bench.writers import Writer
from tests_functional.scenarios.guest import Stack
from validators.slow_save.wrapper import Slowdown, slow_qemu
from validators.stream.reader import read_index
from validators.stream.source import open_source

WAY = Way.BACKGROUND_EXEC
_WARM_SECONDS, _START_SECONDS = 300.0, 120.0
_OF_SAMPLE: Mapping[str, Callable[[Sample], float | None]] = {
    "total": lambda sample: sample.total_ms,
    "stun": lambda sample: sample.stun_ms,
    "downtime": lambda sample: sample.downtime_ms,
    "stall-p99": lambda sample: sample.stall_us["p99"],
    "size": lambda sample: sample.size_bytes,
}


@dataclass(frozen=True)
class QemuSide:
    """A QEMU of this host, and the guest that it starts from; see sides.Side.

    Attributes:
        warm: the guest.
    """

    warm: WarmGuest

    def figure(self, metric: str, folder: Path) -> float:
        """Save it once by a fresh process; `folder` is removed unless the save fails."""
        executable = self.warm.stack.executable
        sample = measure(self.warm, WAY, folder, around_seconds=0.0)
        if not sample.measured:
            raise SetupBroken(f"A save by '{executable}' failed, so nothing is compared: {sample.error}")
        value = _OF_SAMPLE[metric](sample)
        if value is None:
            raise SetupBroken(f"'{executable}' gave no figure for the {METRICS[metric].what}.")
        return comparable(float(value), metric)

    def slowed(self, slowdown: Slowdown, folder: Path) -> QemuSide:
        """The same guest, saved by a wrapper script with the library preloaded."""
        return self.by(slow_qemu(self.warm.stack.executable, slowdown, folder))

    def by(self, executable: Path) -> QemuSide:
        """The same guest, started by another QEMU."""
        warm = self.warm
        return QemuSide(replace(warm, stack=replace(warm.stack, executable=executable)))


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

        def saved(stack: Stack, name: str) -> QemuSide:
            log(f"Booting a guest with {name} ({stack.ram_mib} MiB, {stack.accel}), to start from.")
            warm = files.enter_context(
                warm_guest(stack, writer, folder / name, Deadline(_WARM_SECONDS), seed)
            )
            with open_source(warm.snapshot.path) as file:
                machine = read_index(file).configuration.machine
            return QemuSide(replace(warm, stack=replace(stack, machine=machine)))

        of_a = saved(a, "A")
        if a.executable == b.executable:
            yield TwoSides(of_a, of_a, common=True)
            return
        if _starts(by_b := of_a.by(b.executable), folder / "start"):
            yield TwoSides(of_a, by_b, common=True)
            return
        log("B does not start from what A has saved.")
        of_b = saved(b, "B")
        if _starts(by_a := of_b.by(a.executable), folder / "start"):
            yield TwoSides(by_a, of_b, common=True)
            return
        log("A does not start from what B has saved either; each has a guest of its own.")
        yield TwoSides(of_a, of_b, common=False)


def _starts(side: QemuSide, folder: Path) -> bool:
    try:
        with started(side.warm, folder, WAY, Deadline(_START_SECONDS)):
            return True
    except SubjectFailed:
        return False
    finally:
        remove(folder)
