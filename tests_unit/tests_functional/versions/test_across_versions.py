"""Contract: another QEMU is only asked to restore what QEMU keeps alike across its versions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import NotApplicable
from harness.qemu.architectures import AARCH64, ARCHITECTURES, RISCV64, X86_64, Architecture
from tests_functional.lib.guest import Stack
from tests_functional.versions.across_versions import kept_stack
from tests_unit.support.scenario_values import stack


def _on(folder: Path, architecture: Architecture, cpu: str = "") -> Stack:
    made = stack(folder)
    image = replace(made.image, architecture=architecture)
    return replace(made, image=image, machine=architecture.machine, cpu=cpu)


def test_cpu_model_that_moves_is_replaced(tmp_path: Path) -> None:
    """A guest that has `-cpu max` for want of another gets one that is kept; a named one stays."""
    for architecture in ARCHITECTURES:
        if architecture.machines[0].versioned:
            kept = kept_stack(_on(tmp_path, architecture))
            moves = "max" in architecture.machine_arguments
            assert kept.cpu == architecture.kept_cpu
            assert bool(kept.cpu) == moves
    assert kept_stack(_on(tmp_path, AARCH64, "cortex-a72,pmu=off")).cpu == "cortex-a72,pmu=off"


@pytest.mark.parametrize(
    ("architecture", "cpu", "accel"),
    [(AARCH64, "", "tcg"), (AARCH64, "cortex-a72", "kvm"), (X86_64, "", "kvm"), (X86_64, "qemu64", "kvm")],
)
def test_model_that_kvm_does_not_run(
    architecture: Architecture, cpu: str, accel: str, tmp_path: Path
) -> None:
    """On an arm64 host KVM runs the host's own model alone, so one in its place runs under TCG."""
    found = kept_stack(replace(_on(tmp_path, architecture, cpu), accel="kvm"))
    assert (found.accel, found.cpu) == (accel, cpu or architecture.kept_cpu)


@pytest.mark.parametrize("cpu", ["max", "host", "max,sve=off"])
def test_cpu_model_of_the_user_that_moves(tmp_path: Path, cpu: str) -> None:
    """What a newer QEMU makes of it is no defect of QEMU, so nothing is tested."""
    with pytest.raises(NotApplicable, match=f"'{cpu}' is another processor in each version"):
        kept_stack(_on(tmp_path, AARCH64, cpu))


def test_machine_without_versions(tmp_path: Path) -> None:
    """QEMU promises nothing for it; one with a version in its name is kept."""
    with pytest.raises(NotApplicable, match="'virt' of riscv64 has no versions"):
        kept_stack(_on(tmp_path, RISCV64))
    with pytest.raises(NotApplicable, match="'microvm' of x86_64 has no versions"):
        kept_stack(replace(stack(tmp_path), machine="microvm,rtc=on"))
    versioned = replace(stack(tmp_path), machine="pc-i440fx-6.0,hpet=off")
    assert kept_stack(versioned) == versioned
