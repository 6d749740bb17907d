"""Contract: source and restored guest get the settings of the stack, its image and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import MachineryMissing, NotApplicable, SnapproofError, SubjectFailed
from harness.guest.shell import GuestUnreachable
from harness.linux.kvm import Kvm, KvmKind
from harness.qemu.architectures import AARCH64, I386, X86_64, Architecture
from harness.qemu.configuration import QemuSettings, qemu_argv, with_type
from harness.qemu.disk import Disk
from tests_functional.lib.guest import kvm_explained
from tests_functional.lib.guest_size import COVERAGE, fitting_coverage, fitting_ram
from tests_unit.support.scenario_values import stack


def test_configuration_has_every_setting_of_the_stack(tmp_path: Path) -> None:
    """The arguments of the guest's architecture come before those of the test."""
    changed = replace(
        stack(tmp_path), accel="kvm", ram_mib=640, vcpus=3, machine="pc", extra=("-device", "virtio-rng-pci")
    )
    config = changed.machine_config()
    needed = changed.image.architecture.machine_arguments
    assert config.settings() == {**changed.settings(), "extra": (*needed, *changed.extra)}
    assert "-cpu" not in qemu_argv(config, tmp_path, 3, "127.0.0.1", incoming=False)
    assert set(config.settings()) == set(QemuSettings.__dataclass_fields__)
    assert (config.kernel, config.initrd, config.cmdline, config.disk) == (
        (changed.image.kernel, changed.image.initrd, changed.image.cmdline, None)
    )


@pytest.mark.parametrize(
    ("machine", "loader"),
    [
        ("pc-i440fx-3.1", True),
        ("pc-q35-2.12,hpet=off", True),
        ("pc-i440fx-4.0", False),
        ("pc-q35-4.0.1", False),
        ("pc-q35-10.0", False),
        ("pc-q35-made-up", False),
        ("pc", False),
        ("microvm", False),
        ("isapc", False),
    ],
)
def test_old_machine_types_get_a_bare_guest_by_the_loader(tmp_path: Path, machine: str, loader: bool) -> None:
    """Their `-kernel` takes no ELF file; Linux boots on all of them."""
    linux = replace(stack(tmp_path), machine=machine)
    bare = replace(
        linux, image=replace(linux.image, bare=True, firmware=tmp_path / "fw", kernel=tmp_path / "a,b")
    )
    words = " ".join(qemu_argv(bare.machine_config(), tmp_path, 3, "127.0.0.1", incoming=False))
    assert f"-bios {tmp_path / 'fw'} " in words
    assert ("-kernel" in words) is not loader
    assert (f"-device loader,file={tmp_path / 'a,,b'}" in words) is loader
    assert "-kernel" in qemu_argv(linux.machine_config(), tmp_path, 3, "127.0.0.1", incoming=False)


def test_arguments_of_the_user_come_last(tmp_path: Path) -> None:
    """Of several CPU models QEMU takes the last, so the user's stands behind the architecture's."""
    config = replace(
        stack(tmp_path), extra=("-cpu", "a"), cpu="b", user_arguments=("-vga", "std")
    ).machine_config()
    for incoming in (False, True):
        argv = qemu_argv(config, tmp_path, 3, "127.0.0.1", incoming)
        assert argv[-6:] == ["-cpu", "a", "-cpu", "b", "-vga", "std"]


def test_another_version_of_a_machine_type_keeps_its_properties() -> None:
    """A snapshot names the type that it was taken on, and not its properties."""
    assert with_type("q35,hpet=off,smm=on", "pc-q35-9.1") == "pc-q35-9.1,hpet=off,smm=on"
    assert with_type("q35", "pc-q35-9.1") == "pc-q35-9.1"


def test_restored_guest_can_have_another_disk(tmp_path: Path) -> None:
    """The disk as of T0 takes the place of the image's own."""
    own, kept = (Disk(tmp_path / name, "raw", 512) for name in ("own", "kept"))
    given = stack(tmp_path)
    given = replace(given, image=replace(given.image, disk=own))
    assert (given.machine_config().disk, given.machine_config(kept).disk) == (own, kept)


def test_ram_and_coverage_leave_the_guest_its_own_need() -> None:
    """RAM grows in steps until the share of the writers fits; or the share shrinks."""
    assert fitting_ram(512, COVERAGE, 76) == 512
    assert fitting_ram(513, COVERAGE, 100) == 769
    assert fitting_ram(513, COVERAGE, 76, 256) == 768
    assert fitting_ram(512, COVERAGE, 76, 256) == 512
    assert fitting_coverage(512, 64) == COVERAGE
    assert fitting_coverage(256, 64) == 0.75


@pytest.mark.parametrize(
    ("accel", "kind", "kept", "text"),
    [
        ("kvm", KvmKind.PVM, True, "The guest does not boot under KVM here: It is silent. KVM here is PVM"),
        ("kvm", KvmKind.NONE, False, "It is silent. There is no /dev/kvm"),
        ("tcg", KvmKind.PVM, True, "It is silent."),
    ],
)
@pytest.mark.parametrize("error", [GuestUnreachable, SubjectFailed])
def test_guest_that_does_not_boot_under_the_chosen_kvm(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    accel: str,
    kind: KvmKind,
    kept: bool,
    text: str,
    error: type[SnapproofError],
) -> None:
    """The user is told what KVM can do here; only a missing KVM changes whose fault it is."""
    for module in ("tests_functional.lib.guest", "harness.qemu.accelerator"):
        monkeypatch.setattr(f"{module}.find_kvm", lambda: Kvm(kind))
    made = replace(stack(tmp_path), accel=accel)
    with pytest.raises(error if kept else MachineryMissing) as caught, kvm_explained(made):
        raise error("It is silent.")
    assert text in caught.value.sentence
    assert caught.value.code is error.code or not kept
    assert ("PVM" in caught.value.sentence) == (accel == "kvm" and kind is KvmKind.PVM)


@pytest.mark.parametrize(
    ("architecture", "machine", "ram_mib", "words"),
    [
        (I386, "pc", 4608, r"first 3072 MiB .* 'pc', .* 3916 of 4608 MiB: addresses of 32 bits"),
        (I386, "q35", 4608, r"first 2048 MiB .*: addresses of 32 bits"),
        (I386, "pc", 3072, ""),
        (X86_64, "pc", 4608, ""),
        (X86_64, "isapc", 4608, r"first 2048 MiB .*: where that machine type has the rest is not known"),
        (X86_64, "isapc", 1024, ""),
        (AARCH64, "virt", 4608, ""),
    ],
)
def test_ram_that_a_bare_agent_cannot_use(
    architecture: Architecture, machine: str, ram_mib: int, words: str, tmp_path: Path
) -> None:
    """The test is skipped with the reason, before the agent refuses a plan that is too large."""
    given = stack(tmp_path)
    image = replace(given.image, bare=True, architecture=architecture, own_mib=10)
    bare = replace(given, image=image, machine=machine, ram_mib=ram_mib)
    if words:
        with pytest.raises(NotApplicable, match=words):
            bare.writer_plan("random", 1)
    else:
        assert bare.writer_plan("random", 1).bytes
    assert replace(bare, image=given.image).writer_plan("random", 1).bytes
