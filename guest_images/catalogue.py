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
        architecture: whose packages, by Debian's name.
    """

    name: str
    codename: str
    reason: str
    backports: str | None = None
    architecture: str = "amd64"


@dataclass(frozen=True)
class QemuSpec:
    """A QEMU build: a Debian package unpacked beside the machine's own.

    Attributes:
        name: what `--qemu` takes.
        suite: name of the suite.
        packages: what to unpack, with all that they depend on. Firmware is named although QEMU
            depends on it, since a missing virtio-net ROM shows only when a device is added.
        reason: why it is in the catalogue.
        program: the executable among those packages.
    """

    name: str
    suite: str
    reason: str
    packages: tuple[str, ...] = ("qemu-system-x86", "seabios", "ipxe-qemu")
    program: str = "qemu-system-x86_64"


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
    Suite("debian-12-arm64", "bookworm", "Linux 6.1 on arm64, and QEMU built for it", architecture="arm64"),
    Suite("debian-13-arm64", "trixie", "Linux 6.12 on arm64, and QEMU built for it", architecture="arm64"),
    Suite("debian-12-i386", "bookworm", "the last release with kernels for 32-bit x86", architecture="i386"),
)

QEMUS = (
    QemuSpec("debian-11", "debian-11", "5.2 lacks background-snapshot (it came in 6.0) and must say so"),
    QemuSpec("debian-12", "debian-12", "7.2: the oldest build here with the capability"),
    QemuSpec("debian-13", "debian-13", "10.0: the build that the default run judges"),
    QemuSpec("debian-13-backports", "debian-13-backports", "newest build: where a regression shows first"),
)

HOST_QEMUS = (
    QemuSpec("debian-12-arm64", "debian-12-arm64", "7.2 for arm64 hosts: takes the amd64 build's files"),
    QemuSpec("debian-13-arm64", "debian-13-arm64", "10.0 for arm64 hosts: takes the amd64 build's files"),
    QemuSpec("debian-12-i386", "debian-12-i386", "7.2 for i386 hosts: takes the amd64 build's files"),
    QemuSpec(
        "arm",
        "debian-13",
        "runs the arm64 hosts themselves",
        packages=("qemu-system-arm", "ipxe-qemu"),
        program="qemu-system-aarch64",
    ),
)
"""QEMU builds that run on hosts, or that run hosts; none is one that `--qemu` should judge here."""

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


@dataclass(frozen=True)
class HostSpec:
    """A host: a kernel, and a Debian of its suite with Python, booted as a VM to run QEMU or programs in.

    Attributes:
        name: what `--host vm:` takes.
        suite: name of the suite of kernel and Debian.
        reason: why it is in the catalogue.
        kernel_package: the metapackage whose newest versioned kernel is used.
        qemu: name of the QEMU that runs in it, in QEMUS or HOST_QEMUS.
        seed_qemu: name of the QEMU of this machine that has made the guest which that one takes over.
        features: the mask of userfaultfd features that a kernel of this kind offers, as far as is known.
    """

    name: str
    suite: str
    reason: str
    kernel_package: str
    qemu: str
    seed_qemu: str
    features: int


# Feature masks: Linux include/uapi/linux/userfaultfd.h has the bits in the order in which they came; what an
# architecture offers is in fs/userfaultfd.c userfaultfd_api() of each release. WP is in x86_64 from 5.7 and
# in arm64 from 6.10 (arch/*/Kconfig, HAVE_ARCH_USERFAULTFD_WP); the minor modes need a 64-bit kernel. Bits 17
# and 18 (RWP and its asynchronous form) were seen in 7.3.4.
HOSTS = (
    HostSpec(
        "debian-11",
        "debian-11",
        "Linux 5.10: write protection of anonymous memory only",
        "linux-image-cloud-amd64",
        "debian-13",
        "debian-13",
        0x1FF,
    ),
    HostSpec(
        "debian-12",
        "debian-12",
        "Linux 6.1: shmem and huge pages too, /dev/userfaultfd",
        "linux-image-cloud-amd64",
        "debian-13",
        "debian-13",
        0x1FFF,
    ),
    HostSpec(
        "debian-13",
        "debian-13",
        "Linux 6.12: unpopulated memory, asynchronous write protection",
        "linux-image-cloud-amd64",
        "debian-13",
        "debian-13",
        0x1FFFF,
    ),
    HostSpec(
        "debian-13-backports",
        "debian-13-backports",
        "newest kernel: where a regression shows first",
        "linux-image-cloud-amd64",
        "debian-13",
        "debian-13",
        0x7FFFF,
    ),
    HostSpec(
        "debian-12-arm64",
        "debian-12-arm64",
        "Linux 6.1 on arm64: userfaultfd without write protection",
        "linux-image-cloud-arm64",
        "debian-12-arm64",
        "debian-12",
        0xFFE,
    ),
    HostSpec(
        "debian-13-arm64",
        "debian-13-arm64",
        "Linux 6.12 on arm64: its counterpart, with write protection",
        "linux-image-cloud-arm64",
        "debian-13-arm64",
        "debian-13",
        0x1FFFF,
    ),
    HostSpec(
        "debian-12-i386",
        "debian-12-i386",
        "Linux 6.1 on 32-bit x86: userfaultfd without write protection",
        "linux-image-686",
        "debian-12-i386",
        "debian-12",
        0x9FE,
    ),
)


def suite(name: str) -> Suite:
    """Look up a suite by name; UsageError where there is none."""
    return _named("suite", name, {entry.name: entry for entry in SUITES})


def qemu_spec(name: str) -> QemuSpec:
    """Look up a QEMU build by name; UsageError where there is none."""
    return _named("QEMU", name, {entry.name: entry for entry in QEMUS})


def host_qemu_spec(name: str) -> QemuSpec:
    """Look up a QEMU build that runs on hosts or runs them; UsageError where there is none."""
    return _named("QEMU", name, {entry.name: entry for entry in (*QEMUS, *HOST_QEMUS)})


def host_spec(name: str) -> HostSpec:
    """Look up a host by name; UsageError where there is none."""
    return _named("host", name, {entry.name: entry for entry in HOSTS})


def guest_spec(name: str) -> GuestSpec:
    """Look up a guest by name; UsageError where there is none."""
    return _named("guest", name, {entry.name: entry for entry in GUESTS})


def _named(what: str, name: str, entries: dict[str, _Entry]) -> _Entry:
    if name not in entries:
        known = ", ".join(f"'{known}'" for known in entries)
        raise UsageError(f"There is no {what} '{name}' in the catalogue, only {known}.")
    return entries[name]
