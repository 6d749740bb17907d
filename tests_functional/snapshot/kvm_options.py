"""Takes live snapshots under KVM with options that change what QEMU does and what the kernel does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from harness.errors import NotApplicable
from harness.linux.kvm import kvm_extension
from tests_functional.lib.flows import one_flow
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow


@dataclass(frozen=True)
class KvmOption:
    """An option of `-accel kvm`.

    Attributes:
        option: as on QEMU's command line.
        reason: why it is tested.
        extensions: the numbers of KVM's extensions of which the host needs one (linux/kvm.h).
    """

    option: str
    reason: str
    extensions: tuple[int, ...]


# KVM_CAP_DIRTY_LOG_RING (5.11) and KVM_CAP_DIRTY_LOG_RING_ACQ_REL (6.1); KVM_CAP_SPLIT_IRQCHIP (4.4).
KVM_OPTIONS: Mapping[str, KvmOption] = {
    "dirty-ring": KvmOption(
        "dirty-ring-size=4096",
        "vCPUs leave KVM when their ring of dirty pages is full, and a thread of QEMU's empties the rings",
        (192, 223),
    ),
    "split-irqchip": KvmOption(
        "kernel-irqchip=split", "interrupt controllers whose state QEMU has, and not the kernel", (121,)
    ),
}


def kvm_option(name: str) -> Callable[[Run], Outcome]:
    """Return a scenario that takes live snapshots under KVM with one of KVM_OPTIONS."""
    return lambda run: _with(run, KVM_OPTIONS[name])


def _with(run: Run, found: KvmOption) -> Outcome:
    if not any(map(kvm_extension, found.extensions)):
        raise NotApplicable(f"This host's KVM cannot do '{found.option}'.")
    return one_flow(Flow.LIVE)(replace(run, stack=replace(run.stack, accel=f"kvm,{found.option}")))
