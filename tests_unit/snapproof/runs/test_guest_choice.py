"""Contract: --arch, --guest and own files mean one architecture, or one sentence says what is wrong."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from guest_images.catalogue import guest_spec
from harness.errors import UsageError
from harness.qemu.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE, PPC64LE, X86_64, Architecture
from snapproof.runs.guest_choice import chosen_guest, guest_architecture
from snapproof.runs.options import OwnGuestOptions, StackOptions
from tests_functional.lib.machines import why_not_on
from tests_unit.support.scenario_values import stack


@pytest.mark.parametrize(
    ("arch", "guest", "chosen"),
    [
        ("ppc64le", "bare", "bare-ppc64le"),
        (None, None, "default"),
        (None, "bare-s390x", "bare-s390x"),
        (DEFAULT_ARCHITECTURE.name, None, "default"),
        (DEFAULT_ARCHITECTURE.debian, None, "default"),
        (DEFAULT_ARCHITECTURE.name, "bare", "bare"),
        ("ppc64le", None, "debian-12-ppc64el"),
        ("ppc64el", None, "debian-12-ppc64el"),
        ("s390x", "bare", "bare-s390x"),
        ("riscv64", "debian-13-riscv64", "debian-13-riscv64"),
    ],
)
def test_guest_of_an_architecture(arch: str | None, guest: str | None, chosen: str) -> None:
    """Both names of an architecture will do; a guest that is named stays."""
    options = StackOptions(arch=arch, guest=guest)
    assert chosen_guest(options) == chosen
    assert guest_architecture(options) == guest_spec(chosen).architecture


@pytest.mark.parametrize(
    ("arch", "guest", "sentence"),
    [
        ("vax", None, "There is no architecture 'vax'"),
        ("ppc64", None, "There is no Linux guest for ppc64 here, only for .*ppc64le"),
        ("ppc64le", "debian-12", f"'debian-12' is for {DEFAULT_ARCHITECTURE.name}, and --arch says ppc64le"),
        (None, "debian", "There is no guest 'debian'"),
    ],
)
def test_choice_that_cannot_be(arch: str | None, guest: str | None, sentence: str) -> None:
    """The sentence says what there is."""
    with pytest.raises(UsageError, match=sentence):
        chosen_guest(StackOptions(arch=arch, guest=guest))


def _elf(architecture: Architecture) -> bytes:
    return b"\x7fELF\x02\x01\x01".ljust(18, b"\0") + architecture.elf_machine


def _image(architecture: Architecture) -> bytes:
    at, signature = architecture.linux_signature
    return _elf(architecture) if at == 0 else bytes(at) + signature


def _of_kernel(folder: Path, content: bytes, arch: str | None = None) -> Architecture:
    kernel = folder / "kernel"
    kernel.write_bytes(content)
    return guest_architecture(StackOptions(arch=arch, own=OwnGuestOptions(kernel=kernel)))


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=[entry.name for entry in ARCHITECTURES])
def test_kernel_says_its_architecture(tmp_path: Path, architecture: Architecture) -> None:
    """By the header of its image or of an ELF file, compressed or not; a bzImage may be for either x86."""
    for content in (_image(architecture), _elf(architecture), gzip.compress(_image(architecture))):
        assert _of_kernel(tmp_path, content, architecture.name) == architecture
        bzimage = architecture.linux_image == X86_64.linux_image and architecture.qemu == X86_64.qemu
        if not bzimage:
            assert _of_kernel(tmp_path, content) == architecture
    other = next(entry for entry in ARCHITECTURES if entry.qemu != architecture.qemu)
    with pytest.raises(UsageError, match=f"and --arch says {other.name}"):
        _of_kernel(tmp_path, _image(architecture), other.name)


def test_own_files_that_say_nothing(tmp_path: Path) -> None:
    """A disk is for the usual architecture unless --arch says another; a text is no kernel."""
    disk = OwnGuestOptions(disk=tmp_path / "disk")
    assert guest_architecture(StackOptions(own=disk)) == DEFAULT_ARCHITECTURE
    assert guest_architecture(StackOptions(own=disk, arch="ppc64el")) == PPC64LE
    assert (
        guest_architecture(StackOptions(own=OwnGuestOptions(guest_needs=9), arch="arm64")).name == "aarch64"
    )
    with pytest.raises(UsageError, match="is not a Linux kernel for any of x86_64, "):
        _of_kernel(tmp_path, b"text")


def test_disk_that_no_firmware_boots(tmp_path: Path) -> None:
    """Machine type virt has no firmware of its own for disks; that of aarch64 takes UEFI."""
    plain = stack(tmp_path)
    for architecture in ARCHITECTURES:
        image = replace(plain.image, kernel=None, initrd=None, architecture=architecture)
        why = why_not_on(replace(plain, image=image, machine=architecture.machine))
        assert bool(why) == (architecture.name in ("aarch64", "riscv64"))
        if why:
            assert ("--firmware uefi" in why) == (architecture.name == "aarch64")
