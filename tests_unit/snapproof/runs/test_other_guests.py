"""Contract: guests of other architectures get QEMUs of the same build; one that lacks its own is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from guest_images.cache import Cache
from guest_images.guests.image import GuestImage
from guest_images.provisioning import Provisioning
from harness.errors import MachineryMissing
from harness.qemu.architectures import AARCH64, I386, X86_64
from snapproof.runs import other_guests
from snapproof.runs.guest_choice import bare_guest
from snapproof.runs.options import OwnGuestOptions, StackOptions
from snapproof.runs.other_guests import OtherGuests, prepare_others
from snapproof.runs.stack import find_emulator
from tests_functional.lib.guest import Stack
from tests_functional.lib.profile_row import ProfileRow
from tests_functional.lib.stack_file import load_stack, save_stack
from tests_unit.support.scenario_values import stack

_ARM = bare_guest(AARCH64)
_ROWS = [
    ProfileRow(f"a.{guest}", "t", "why", {"guest": guest} if guest else {})
    for guest in ("", bare_guest(X86_64), _ARM, "bare-i386", "debian-13-riscv64")
]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """A stack of a QEMU with one for aarch64 beside it; guests of riscv64 cannot be built."""
    (tmp_path / "qemu-system-aarch64").touch()
    plain = replace(stack(tmp_path), executable=tmp_path / "qemu-system-x86_64")

    def build(name: str, _: Provisioning) -> GuestImage:
        return replace(
            plain.image, name=name, architecture=I386 if name.endswith("i386") else AARCH64, bare=True
        )

    monkeypatch.setattr(other_guests, "build_guest", build)
    return plain


def _others(made: Stack, options: StackOptions) -> OtherGuests:
    return prepare_others(_ROWS, made, replace(options, qemu=str(made.executable)), print)


def test_qemus_of_the_same_build(made: Stack, tmp_path: Path) -> None:
    """They lie beside the run's; a 32-bit guest takes the run's own."""
    found = _others(made, StackOptions())
    assert [image.name for image in found.images] == [_ARM, "bare-i386"]
    assert found.emulators == {
        "qemu-system-aarch64": tmp_path / "qemu-system-aarch64",
        "qemu-system-x86_64": made.executable,
    }
    assert list(found.missing) == ["debian-13-riscv64"]
    assert "There is no 'qemu-system-riscv64' beside" in found.missing["debian-13-riscv64"]


@pytest.mark.parametrize(
    "options",
    [
        StackOptions(guest=bare_guest(X86_64)),
        StackOptions(machine="q35"),
        StackOptions(cpu="max"),
        StackOptions(firmware="uefi"),
        StackOptions(qemu_args="-device x"),
        StackOptions(own=OwnGuestOptions(disk=Path("disk"))),
    ],
)
def test_run_about_one_architecture(made: Stack, options: StackOptions) -> None:
    """Guest and machine that the user names say which it is, and no others are built."""
    found = _others(made, options)
    assert not found.images
    assert found.missing[_ARM] == (f"This test's guest '{_ARM}' is for aarch64, the run is of x86_64.")
    assert set(found.missing) == {_ARM, "bare-i386", "debian-13-riscv64"}


def test_kvm_runs_no_other_processor(made: Stack) -> None:
    """A run under KVM has no guest that only TCG can run."""
    found = _others(made, StackOptions(accel="kvm"))
    assert [image.name for image in found.images] == ["bare-i386"]
    assert "which only TCG emulates here" in found.missing[_ARM]


def test_emulator_that_is_not_there(tmp_path: Path) -> None:
    """It is the build that lacks the target, and no other build takes its place."""
    provisioning = Provisioning(Cache(tmp_path), print)
    with pytest.raises(MachineryMissing, match="build that target too"):
        find_emulator("/x/qemu-system-x86_64", Path("/x/qemu-system-x86_64"), X86_64, AARCH64, provisioning)


def test_test_gets_the_machine_of_its_guest(made: Stack, tmp_path: Path) -> None:
    """What the user says of the machine is for the run's own guest."""
    image = replace(made.image, name="arm", architecture=AARCH64)
    own = replace(made, machine="q35", cpu="qemu64", user_arguments=("-s",), accel="kvm")
    save_stack(own, {}, tmp_path, [image], emulators={"qemu-system-aarch64": tmp_path / "arm"})
    found, _ = load_stack(tmp_path, "arm")
    assert (found.executable, found.image, found.accel) == (tmp_path / "arm", image, "tcg")
    assert (found.machine, found.cpu, found.user_arguments) == ("virt", "", ())
    assert load_stack(tmp_path)[0] == own
    small = replace(image, name="small", architecture=I386)
    save_stack(own, {}, tmp_path, [small])
    assert load_stack(tmp_path, "small")[0].accel == "kvm"
