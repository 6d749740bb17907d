"""What can be booted and what can boot it: Debian suites, QEMU builds and guest kernels, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from harness.errors import UsageError

_Entry = TypeVar("_Entry")

OWN_MIB = 76
"""MiB of RAM that our initramfs guests need beside the writers: 15 % of 512, 30 % of 256."""

BOOT_SECONDS = 90.0
"""Limit for the boot of our initramfs guests, which answer after 6 to 10 s under TCG."""


@dataclass(frozen=True)
class Suite:
    """A Debian release to take packages from.

    Attributes:
        name: how the rest of the project calls it.
        codename: its folder below `dists/` on a mirror.
        backports: the codename of the suite laid over it; its packages win over those of `codename`.
        reason: why it is in the catalogue.
    """

    name: str
    codename: str
    reason: str
    backports: str | None = None


@dataclass(frozen=True)
class QemuSpec:
    """A QEMU build: a Debian package unpacked beside the machine's own.

    Attributes:
        name: what `--qemu` takes.
        suite: name of the suite.
        packages: what to unpack, with all that they depend on. Firmware is named although QEMU
            depends on it, since a missing virtio-net ROM shows only when a device is added.
        reason: why it is in the catalogue.
    """

    name: str
    suite: str
    reason: str
    packages: tuple[str, ...] = ("qemu-system-x86", "seabios", "ipxe-qemu")


@dataclass(frozen=True)
class GuestSpec:
    """A guest: a kernel with our initramfs.

    Attributes:
        name: what `--guest` takes.
        suite: name of the suite that the kernel is taken from, the newest one there.
        reason: why it is in the catalogue.
        kernel_package: the metapackage whose newest versioned kernel is used.
        own_mib: MiB of RAM that it needs beside the writers, measured.
        boot_seconds: limit for its boot.
        full: a Debian of the suite on a disk, with systemd and OpenSSH, instead of our initramfs.
    """

    name: str
    suite: str
    reason: str
    kernel_package: str = "linux-image-cloud-amd64"
    own_mib: int = OWN_MIB
    boot_seconds: float = BOOT_SECONDS
    full: bool = False


SUITES = (
    Suite("debian-11", "bullseye", "Linux 5.10 and QEMU 5.2: before background-snapshot"),
    Suite("debian-12", "bookworm", "Linux 6.1 and QEMU 7.2: what long-lived hosts run"),
    Suite("debian-13", "trixie", "Linux 6.12 and QEMU 10.0: the stable release"),
    Suite(
        "debian-13-backports",
        "trixie",
        "the newest kernel and QEMU that Debian builds for its stable release",
        backports="trixie-backports",
    ),
)

QEMUS = (
    QemuSpec("debian-11", "debian-11", "5.2 lacks background-snapshot (it came in 6.0) and must say so"),
    QemuSpec("debian-12", "debian-12", "7.2: the oldest build here with the capability"),
    QemuSpec("debian-13", "debian-13", "10.0: the build that the default run judges"),
    QemuSpec("debian-13-backports", "debian-13-backports", "newest build: where a regression shows first"),
)

USERLAND_SUITE = "debian-13"
"""Suite of busybox and dropbear, the same under every kernel, so that guests differ only in the kernel."""

USERLAND_PACKAGES = ("busybox-static", "dropbear-bin")

GUESTS = (
    # Measured in November 2026 under `-accel tcg -m 512` with QEMU 10.0 and the command line of image.py, on
    # two half-busy cores, medians of four boots: Linux 6.1 answers SSH after 5.6 s, 6.12 after 8.1 s; a
    # program can lock 442 MiB with 6.1 and 436 MiB with 6.12 (MemTotal 470 and 465 MiB; 5.10: 452, 7.3: 423
    # lockable). The writer needs 85 % of 512 MiB, 436 MiB, and some room beside it. `own_mib` is what
    # cannot be locked, and 4 to 16 MiB.
    GuestSpec("default", "debian-12", "Linux 6.1: boots fastest and leaves the writer the most memory"),
    GuestSpec("debian-11", "debian-11", "Linux 5.10: virtio drivers of the time when the feature was merged"),
    GuestSpec("debian-12", "debian-12", "Linux 6.1"),
    GuestSpec("debian-13", "debian-13", "Linux 6.12", own_mib=80),
    GuestSpec(
        "debian-13-backports",
        "debian-13-backports",
        "newest kernel: where a regression shows first",
        own_mib=96,
    ),
    GuestSpec(
        "debian-13-full",
        "debian-13",
        "a whole Debian with systemd, OpenSSH and ext4 on virtio-blk, as a user's own guest may be",
        # Measured as above, 1024 MiB: answers after 16 s; 906 MiB are available then, of 1024.
        own_mib=150,
        boot_seconds=240.0,
        full=True,
    ),
)


def suite(name: str) -> Suite:
    """Look up a suite by name; UsageError where there is none."""
    return _named("suite", name, {entry.name: entry for entry in SUITES})


def qemu_spec(name: str) -> QemuSpec:
    """Look up a QEMU build by name; UsageError where there is none."""
    return _named("QEMU", name, {entry.name: entry for entry in QEMUS})


def guest_spec(name: str) -> GuestSpec:
    """Look up a guest by name; UsageError where there is none."""
    return _named("guest", name, {entry.name: entry for entry in GUESTS})


def _named(what: str, name: str, entries: dict[str, _Entry]) -> _Entry:
    if name not in entries:
        known = ", ".join(f"'{known}'" for known in entries)
        raise UsageError(f"There is no {what} '{name}' in the catalogue, only {known}.")
    return entries[name]
