"""Contract: a machine that cannot be is one sentence that names the option, before a guest is booted."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from guest_images.cache import Cache
from guest_images.provisioning import Provisioning
from harness.errors import NoSubject, SubjectFailed, UsageError
from harness.linux.kvm import Kvm, KvmKind
from harness.qemu.accelerator import Accelerator
from harness.qemu.architectures import AARCH64, PPC64
from harness.qemu.configuration import Flash
from harness.qemu.probe import QemuFacts
from snapproof.runs import machine as machine_module
from snapproof.runs import stack as stack_module
from snapproof.runs.machine import require_start, with_machine
from snapproof.runs.options import StackOptions
from snapproof.runs.stack import _require_accelerator
from tests_functional.lib.guest import Stack
from tests_functional.lib.machines import UEFI_OWN_MIB, machine_environment, why_not_on, with_flash
from tests_unit.support.scenario_values import stack

_NOTHING = cast(Provisioning, None)
_FAKE = Path(__file__).parents[2] / "support" / "fake_qemu.py"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """A stack whose QEMU has a few machine types, one of them unknown here, and one CPU model."""
    monkeypatch.setattr(
        machine_module, "machine_types", lambda _path: ("pc", "pc-q35-6.0", "microvm", "isapc")
    )
    monkeypatch.setattr(machine_module, "cpu_models", lambda _path: ("max",))
    return stack(tmp_path)


def test_accelerator_that_the_qemu_has_not() -> None:
    """The user chose it, so QEMU is not to blame that it does not start."""
    qemu = QemuFacts(_FAKE, "10.0", ("tcg",))
    _require_accelerator("tcg", qemu)
    _require_accelerator("auto", qemu)
    with pytest.raises(UsageError, match="has no accelerator 'kvm', only tcg; leave --accel out"):
        _require_accelerator("kvm", qemu)


def test_the_users_machine(made: Stack) -> None:
    """Type and model may have properties; without options the stack stays as it is."""
    options = StackOptions(machine="pc-q35-6.0,hpet=off", cpu="max,-avx", qemu_args="-device 'a b'")
    found = with_machine(made, options, _NOTHING)
    assert (found.machine, found.cpu) == ("pc-q35-6.0,hpet=off", "max,-avx")
    assert found.user_arguments == ("-device", "a b")
    assert machine_environment(found) == {
        "machine": "pc-q35-6.0,hpet=off",
        "cpu": "max,-avx",
        "qemu_args": "-device 'a b'",
    }
    assert with_machine(made, StackOptions(), _NOTHING) == made
    assert machine_environment(made) == {"machine": "pc"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (StackOptions(machine="q36"), "has no machine type 'q36'; it has "),
        (StackOptions(cpu="maximum"), "has no CPU model 'maximum'; it has max."),
    ],
)
def test_names_that_this_qemu_lacks(made: Stack, options: StackOptions, sentence: str) -> None:
    """It says what there is. In a bisection that is a commit which cannot be tested."""
    with pytest.raises(NoSubject) as caught:
        with_machine(made, options, _NOTHING)
    assert sentence in caught.value.sentence


def test_long_lists_are_cut(made: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that are most like the wanted one are shown."""
    known = tuple(f"pc-{number}" for number in range(30))
    monkeypatch.setattr(machine_module, "machine_types", lambda _path: (*known, "q35"))
    with pytest.raises(NoSubject, match=r"it has q35, .* and 23 more"):
        with_machine(made, StackOptions(machine="q36"), _NOTHING)


@pytest.mark.parametrize(
    ("machine", "sentence"),
    [("isapc", "does not know how a guest boots on machine type 'isapc'"), ("microvm", "has no PCI")],
)
def test_machines_that_the_guest_cannot_boot_on(made: Stack, machine: str, sentence: str) -> None:
    """They are refused before they are started."""
    with pytest.raises(UsageError, match=sentence):
        with_machine(made, StackOptions(machine=machine), _NOTHING)


def test_debians_firmware(made: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes memory and time of its guest, and results name its version."""
    flash = Flash("ovmf 2025", tmp_path / "code", tmp_path / "variables")
    monkeypatch.setattr(machine_module, "debian_firmware", lambda *_args: flash)
    found = with_machine(made, StackOptions(firmware="uefi"), _NOTHING)
    assert found.flash == flash
    assert found.image.own_mib == made.image.own_mib + UEFI_OWN_MIB
    assert found.image.boot_seconds > made.image.boot_seconds
    assert found.ram_mib > made.ram_mib
    assert machine_environment(found)["firmware"] == "ovmf 2025"
    assert with_flash(found, flash) == found
    bare = replace(made, image=replace(made.image, bare=True))
    for stack_with, options, sentence in (
        (bare, StackOptions(firmware="uefi"), "does not start from UEFI"),
        (made, StackOptions(firmware="uefi", machine="microvm,pcie=on"), "has no flash"),
    ):
        with pytest.raises(UsageError, match=sentence):
            with_machine(stack_with, options, _NOTHING)


def test_firmware_of_the_users_own(made: Stack, tmp_path: Path) -> None:
    """Program and variables belong together, and results name both files with their content's digest."""
    code, variables = tmp_path / "CODE.fd", tmp_path / "VARS.fd"
    for path in (code, variables):
        path.write_bytes(path.name.encode())
    found = with_machine(made, StackOptions(firmware=str(code), firmware_vars=variables), _NOTHING).flash
    assert found is not None
    assert (found.code, found.variables) == (code, variables)
    assert found.name == "CODE.fd dea64135e76f, VARS.fd a609c5535289"
    for options, sentence in (
        (StackOptions(firmware=str(code)), "belong together"),
        (StackOptions(firmware_vars=variables), "belong together"),
        (StackOptions(firmware="uefi", firmware_vars=variables), "belong together"),
        (StackOptions(firmware=str(tmp_path / "none"), firmware_vars=variables), "cannot be read"),
    ):
        with pytest.raises(UsageError, match=sentence):
            with_machine(made, options, _NOTHING)


def test_machines_that_the_guest_may_boot_on(made: Stack) -> None:
    """A bare guest needs no PCI; a versioned type is as the plain one; other architectures have their own."""
    bare = replace(made.image, bare=True)
    assert not why_not_on(replace(made, machine="microvm", image=bare))
    assert not why_not_on(replace(made, machine="microvm,pcie=on"))
    assert not why_not_on(replace(made, machine="pc-i440fx-2.4"))
    assert not why_not_on(replace(made, machine="pc-q35-3.1", image=bare))
    assert not why_not_on(replace(made, machine="virt-9.0", image=replace(bare, architecture=AARCH64)))
    assert not why_not_on(replace(made, machine="pseries", image=replace(bare, architecture=PPC64)))
    assert why_not_on(replace(made, machine="virt"))
    for machine, fits in (("virt", True), ("virt-2.8", True), ("virt-2.7", False), ("virt-2.6,gic=2", False)):
        why = why_not_on(replace(made, machine=machine, image=replace(bare, architecture=AARCH64)))
        assert why.startswith(f"Machine type '{machine[:8]}' has target pages of another size") is not fits


def _picky(folder: Path, *bad: str) -> Path:
    """A QEMU that does not start with some arguments."""
    path = folder / "picky-qemu"
    tests = "".join(f'case "$*" in *{text}*) echo "qemu: {text} is bad" >&2; exit 1;; esac\n' for text in bad)
    path.write_text(f'#!/bin/sh\n{tests}exec {sys.executable} {_FAKE} "$@"\n')
    path.chmod(0o755)
    return path


_ALL = StackOptions(machine="q35", cpu="max", qemu_args="-vga x")


@pytest.mark.parametrize(
    ("bad", "option"),
    [("-vga", "--qemu-args '-vga x'"), ("max", "--cpu 'max'"), ("q35", "--machine 'q35'")],
)
def test_option_that_ends_qemu_is_blamed(tmp_path: Path, bad: str, option: str) -> None:
    """It is the one without which QEMU starts, and QEMU's own words are given."""
    given = replace(stack(tmp_path), machine="q35", cpu="max", user_arguments=("-vga", "x"))
    with pytest.raises(UsageError) as caught:
        require_start(replace(given, executable=_picky(tmp_path, bad)), _ALL, tmp_path)
    assert f"does not start with {option}, and starts without it" in caught.value.sentence
    assert caught.value.sentence.endswith(f"Its last words: qemu: {bad} is bad")
    assert not (tmp_path / "machine-check").exists()


def test_argument_that_only_one_qemu_can_have(tmp_path: Path) -> None:
    """Source and restored guest run side by side."""
    given = replace(stack(tmp_path), user_arguments=("-pidfile", "p"))
    given = replace(given, executable=_picky(tmp_path, "defer*-pidfile"))
    with pytest.raises(UsageError, match="Two QEMUs do not start at one time with --qemu-args '-pidfile p'"):
        require_start(given, StackOptions(qemu_args="-pidfile p"), tmp_path)


def test_qemu_that_never_starts(tmp_path: Path) -> None:
    """That is no fault of an option."""
    given = replace(stack(tmp_path), cpu="max", executable=_picky(tmp_path, "-serial"))
    with pytest.raises(SubjectFailed, match="-serial is bad"):
        require_start(given, StackOptions(cpu="max"), tmp_path)


def test_nothing_is_started_without_options(tmp_path: Path) -> None:
    """A run without such options costs no time."""
    require_start(replace(stack(tmp_path), executable=_picky(tmp_path, "-serial")), StackOptions(), tmp_path)
    assert not (tmp_path / "machine-check").exists()


def test_options_that_are_right(tmp_path: Path) -> None:
    """Both QEMUs start, and end."""
    require_start(replace(stack(tmp_path), executable=_picky(tmp_path)), _ALL, tmp_path)
    assert not (tmp_path / "machine-check").exists()


@pytest.mark.parametrize(
    ("machine", "bare", "kind", "accel"),
    [
        ("microvm", True, KvmKind.PVM, "tcg"),
        ("q35,hpet=off", True, KvmKind.PVM, "tcg"),
        ("q35", True, KvmKind.PVM, "kvm"),
        ("microvm", True, KvmKind.FULL, "kvm"),
        ("microvm,pcie=on", False, KvmKind.PVM, "kvm"),
    ],
)
def test_clock_that_pvm_does_not_restore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, bare: bool, kind: KvmKind, accel: str
) -> None:
    """A bare guest whose only clock is the processor's counter runs under TCG there, with the reason."""
    made = stack(tmp_path)
    made = replace(made, machine=machine, image=replace(made.image, bare=bare))
    monkeypatch.setattr(stack_module, "find_kvm", lambda: Kvm(kind))
    boots = Accelerator("kvm", "The guest boots under KVM.")
    monkeypatch.setattr(stack_module, "probe_accelerator", lambda *_args: boots)
    provisioning = Provisioning(Cache(tmp_path / "cache"), lambda _text: None)
    found = stack_module.accelerator_for("auto", made, "10.0.13", tmp_path, provisioning)
    assert found.name == accel
    assert ("PVM" in found.reason) is (accel == "tcg")
    assert stack_module.accelerator_for("kvm", made, "10.0.13", tmp_path, provisioning).name == "kvm"
