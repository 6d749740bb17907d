"""The catalogue, as data: Debian suites, QEMU builds, guests, and hosts to run QEMU on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from harness.errors import UsageError
from harness.qemu.architectures import (
    AARCH64,
    DEFAULT_ARCHITECTURE,
    I386,
    PPC64,
    PPC64LE,
    RISCV64,
    S390X,
    X86_64,
    Architecture,
)

_Spec = TypeVar("_Spec", bound="_Named")

OWN_MIB = 76
"""MiB of RAM that our initramfs guests need beside the writers: 15 % of 512, 30 % of 256."""

BOOT_SECONDS = 90.0
"""Limit for the boot of our initramfs guests, which answer after 6 to 10 s under TCG."""

HOST_BOOT_SECONDS = 180.0
"""Limit for the boot of a host, which answers after 12 to 14 s on an idle machine under TCG."""


@dataclass(frozen=True)
class Suite:
    """A Debian release to take packages from.

    Attributes:
        name: its name in this catalogue.
        codename: its folder below `dists/` on a mirror.
        reason: why it is in the catalogue.
        backports: codename of a suite that is laid over it; packages of that suite win over its own.
        architecture: the processor that its packages are built for.
        security: whether the security archive has updates of it.
    """

    name: str
    codename: str
    reason: str
    backports: str | None = None
    architecture: Architecture = DEFAULT_ARCHITECTURE
    security: bool = True


@dataclass(frozen=True)
class _FromSuite:
    """Something that is made of the packages of a suite.

    Attributes:
        name: its name in the catalogue and on the command line.
        suite: name of the suite.
        reason: why it is in the catalogue.
    """

    name: str
    suite: str
    reason: str

    @property
    def architecture(self) -> Architecture:
        """The processor that it runs on."""
        return suite(self.suite).architecture


@dataclass(frozen=True)
class QemuSpec(_FromSuite):
    """A QEMU build: Debian packages that are unpacked beside the machine's own QEMU.

    Attributes:
        emulates: the processor of its guests where the caller names none.
    """

    emulates: Architecture = DEFAULT_ARCHITECTURE


@dataclass(frozen=True)
class GuestSpec(_FromSuite):
    """A guest: the suite's newest kernel with our initramfs.

    Attributes:
        kernel: another metapackage of the kernel, "" for the architecture's usual one.
        words: further words of the kernel command line.
        own_mib: MiB of RAM that it needs beside the writers, measured.
        boot_seconds: limit for its boot.
        full: a Debian of the suite on a disk, with systemd and OpenSSH, instead of our initramfs.
    """

    kernel: str = ""
    words: str = ""
    own_mib: int = OWN_MIB
    boot_seconds: float = BOOT_SECONDS
    full: bool = False


@dataclass(frozen=True)
class BareSpec:
    """A guest that is the agent alone, without an operating system.

    Attributes:
        name: its name in the catalogue and on the command line.
        reason: why it is in the catalogue.
        architecture: the processor that it runs on.
    """

    name: str
    reason: str
    architecture: Architecture = DEFAULT_ARCHITECTURE


@dataclass(frozen=True, kw_only=True)
class HostSpec(_FromSuite):
    """A host: the suite's newest kernel and a Debian with Python, booted as a VM to run QEMU or programs in.

    Attributes:
        qemu: name of the QEMU that runs in it, in QEMUS or HOST_QEMUS.
        source_qemu: name of the QEMU that saves, on this machine, the guest which `qemu` goes on with.
        features: mask of the userfaultfd features that such a kernel is expected to offer.
        kernel: another metapackage of the kernel, "" for the architecture's usual one.
    """

    qemu: str
    source_qemu: str
    features: int
    kernel: str = ""


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
    Suite("debian-12-arm64", "bookworm", "Linux 6.1 on arm64, and QEMU built for it", architecture=AARCH64),
    Suite("debian-13-arm64", "trixie", "Linux 6.12 on arm64, and QEMU built for it", architecture=AARCH64),
    Suite("debian-13-riscv64", "trixie", "Linux 6.12 on riscv64", architecture=RISCV64),
    Suite("debian-12-s390x", "bookworm", "Linux 6.1 on s390x", architecture=S390X),
    Suite("debian-12-ppc64el", "bookworm", "Linux 6.1 on ppc64le", architecture=PPC64LE),
    Suite("debian-12-i386", "bookworm", "the last release with kernels for 32-bit x86", architecture=I386),
)

ARCHIVE_SUITES = (
    Suite("debian-11", "bullseye", "Linux 5.10, and 6.1 of its security updates"),
    Suite(
        "debian-12-backports",
        "bookworm",
        "Linux 6.1, and the point releases of 6.12 since 6.12.43",
        backports="bookworm-backports",
    ),
    Suite(
        "debian-13-backports",
        "trixie",
        "Linux 6.12, and a release or more of each series since 6.16",
        backports="trixie-backports",
    ),
    Suite("debian-testing", "forky", "the kernel of the next release"),
    Suite("debian-unstable", "sid", "the newest kernel of the archive", security=False),
)
"""Suites whose kernels `--host vm:debian@VERSION` takes; they name old kernels for months."""

QEMUS = (
    QemuSpec("debian-11", "debian-11", "5.2 lacks background-snapshot (it came in 6.0) and must say so"),
    QemuSpec("debian-12", "debian-12", "7.2: the oldest build here with the capability"),
    QemuSpec("debian-13", "debian-13", "10.0: the build that the default run judges"),
    QemuSpec("debian-13-backports", "debian-13-backports", "newest build: where a regression shows first"),
)
"""QEMU builds that `--qemu` takes."""

DEFAULT_QEMU = "debian-13"
"""The one of them that is taken where none is named."""

HOST_QEMUS = (
    QemuSpec("debian-12-arm64", "debian-12-arm64", "7.2 for arm64 hosts: takes the amd64 build's files"),
    QemuSpec("debian-13-arm64", "debian-13-arm64", "10.0 for arm64 hosts: takes the amd64 build's files"),
    QemuSpec("debian-12-i386", "debian-12-i386", "7.2 for i386 hosts: takes the amd64 build's files"),
    QemuSpec("arm", "debian-13", "runs the arm64 hosts themselves", emulates=AARCH64),
)
"""QEMU builds that run on hosts, and one that runs hosts. `--qemu` takes none of them."""

# The first of them that there is a suite of.
_USERLAND_CODENAMES = ("trixie", "bookworm")
# What every guest has beside its kernel.
USERLAND_PACKAGES = ("busybox-static", "dropbear-bin")

GUESTS = (
    # Measured in November 2026 under `-accel tcg -m 512` with QEMU 10.0 and the kernel command line of
    # guests/image.py, on two half-busy cores, medians of four boots: Linux 6.1 answers SSH after 5.6 s, 6.12
    # after 8.1 s; a program can lock 442 MiB with 6.1 and 436 MiB with 6.12 (MemTotal 470 and 465 MiB; 5.10:
    # 452, 7.3: 423 lockable). The agent needs 85 % of 512 MiB, 436 MiB, and some room beside it. `own_mib` is
    # the memory that cannot be locked, and 4 to 16 MiB more.
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
    # The same on other processors.
    GuestSpec("debian-13-arm64", "debian-13-arm64", "Linux 6.12 on arm64", own_mib=96, boot_seconds=240.0),
    GuestSpec(
        "debian-13-arm64-16k",
        "debian-13-arm64",
        "Linux 6.12 with pages of 16 KiB, four target pages of QEMU: a fault of one is a fault of all",
        kernel="linux-image-arm64-16k",
        own_mib=160,
        boot_seconds=240.0,
    ),
    GuestSpec(
        "debian-13-riscv64", "debian-13-riscv64", "Linux 6.12: riscv64", own_mib=112, boot_seconds=240.0
    ),
    GuestSpec("debian-12-s390x", "debian-12-s390x", "Linux 6.1, big-endian", own_mib=96, boot_seconds=240.0),
    GuestSpec("debian-12-ppc64el", "debian-12-ppc64el", "Linux 6.1: ppc64le", own_mib=96, boot_seconds=240.0),
    GuestSpec(
        "debian-12-ppc64el-hash",
        "debian-12-ppc64el",
        "Linux 6.1 with the hash MMU, whose page table QEMU keeps outside of guest RAM",
        words="disable_radix",
        own_mib=96,
        boot_seconds=240.0,
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

BARE_GUESTS = (
    BareSpec("bare", "the agent alone: boots in milliseconds, also where KVM emulates"),
    BareSpec("bare-x86_64", "the same as `bare` on hosts of other processors", X86_64),
    BareSpec("bare-i386", "the agent alone in 32-bit mode: other instructions for the same words", I386),
    BareSpec("bare-aarch64", "the agent alone on machine virt: QEMU's other code for CPUs and RAM", AARCH64),
    BareSpec("bare-riscv64", "the agent alone on machine virt, in machine mode", RISCV64),
    BareSpec("bare-s390x", "the agent alone on a big-endian machine without PCI", S390X),
    BareSpec("bare-ppc64", "the agent alone on machine pseries, big-endian, below a hypervisor", PPC64),
    BareSpec("bare-ppc64le", "the agent alone on machine pseries, which it turns little-endian", PPC64LE),
)

BARE_OWN_MIB = 10
"""MiB of RAM that they need beside the writers: program, pages that describe the agent, firmware's tables."""

BARE_BOOT_SECONDS = 20.0
"""Limit for the boot of a bare guest, which takes 0.01 s once QEMU answers."""

# Feature masks: Linux include/uapi/linux/userfaultfd.h has the bits in the order in which they came; what an
# architecture offers is in fs/userfaultfd.c userfaultfd_api() of each release. WP is in x86_64 from 5.7 and
# in arm64 from 6.10 (arch/*/Kconfig, HAVE_ARCH_USERFAULTFD_WP); the minor modes need a 64-bit kernel. Bits 17
# and 18 (RWP and its asynchronous form) were seen in 7.3.4.
HOSTS = (
    HostSpec(
        name="debian-11",
        suite="debian-11",
        reason="Linux 5.10: write protection of anonymous memory only",
        qemu="debian-13",
        source_qemu="debian-13",
        features=0x1FF,
    ),
    HostSpec(
        name="debian-12",
        suite="debian-12",
        reason="Linux 6.1: shmem and huge pages too, /dev/userfaultfd",
        qemu="debian-13",
        source_qemu="debian-13",
        features=0x1FFF,
    ),
    HostSpec(
        name="debian-13",
        suite="debian-13",
        reason="Linux 6.12: unpopulated memory, asynchronous write protection",
        qemu="debian-13",
        source_qemu="debian-13",
        features=0x1FFFF,
    ),
    HostSpec(
        name="debian-13-backports",
        suite="debian-13-backports",
        reason="newest kernel: where a regression shows first",
        qemu="debian-13",
        source_qemu="debian-13",
        features=0x7FFFF,
    ),
    HostSpec(
        name="debian-12-arm64",
        suite="debian-12-arm64",
        reason="Linux 6.1 on arm64: userfaultfd without write protection",
        qemu="debian-12-arm64",
        source_qemu="debian-12",
        features=0xFFE,
    ),
    HostSpec(
        name="debian-13-arm64",
        suite="debian-13-arm64",
        reason="Linux 6.12 on arm64: its counterpart, with write protection",
        qemu="debian-13-arm64",
        source_qemu="debian-13",
        features=0x1FFFF,
    ),
    HostSpec(
        name="debian-13-rt",
        suite="debian-13",
        reason="Linux 6.12 with PREEMPT_RT: spinlocks of the page tables may sleep, and faults be preempted",
        qemu="debian-13",
        source_qemu="debian-13",
        features=0x1FFFF,
        kernel="linux-image-rt-amd64",
    ),
    HostSpec(
        name="debian-13-arm64-16k",
        suite="debian-13-arm64",
        reason="Linux 6.12 on arm64 with pages of 16 KiB, four target pages of the guest's",
        qemu="debian-13-arm64",
        source_qemu="debian-13",
        features=0x1FFFF,
        kernel="linux-image-arm64-16k",
    ),
    HostSpec(
        name="debian-12-i386",
        suite="debian-12-i386",
        reason="Linux 6.1 on 32-bit x86: userfaultfd without write protection",
        qemu="debian-12-i386",
        source_qemu="debian-12",
        features=0x9FE,
    ),
)


def suite(name: str) -> Suite:
    """Return the suite of that name; raise UsageError where there is none."""
    return _named("suite", name, SUITES)


def userland_suite(architecture: Architecture = DEFAULT_ARCHITECTURE) -> Suite:
    """Return the suite of busybox, dropbear and e2fsprogs for an architecture.

    It is one release for all kernels, so that guests of an architecture differ only in the kernel.

    Raises:
        UsageError: the catalogue has no such suite for the architecture.
    """
    # On a host of such an architecture the releases without its name are of it too, and come first: its QEMU
    # is of these, so that one package index serves both.
    plain = [entry for entry in SUITES if (entry.backports, entry.architecture) == (None, architecture)]
    found = next(
        (entry for codename in _USERLAND_CODENAMES for entry in plain if entry.codename == codename), None
    )
    if found:
        return found
    raise UsageError(
        f"The catalogue has no suite {' or '.join(repr(name) for name in _USERLAND_CODENAMES)} for "
        f"{architecture.name}, which its guests need."
    )


def qemu_spec(name: str) -> QemuSpec:
    """Return the QEMU build of that name which `--qemu` takes; raise UsageError where there is none."""
    return _named("QEMU", name, QEMUS)


def host_qemu_spec(name: str) -> QemuSpec:
    """Return the QEMU build of that name, of those for hosts too; raise UsageError where there is none."""
    return _named("QEMU", name, (*QEMUS, *HOST_QEMUS))


def host_spec(name: str) -> HostSpec:
    """Return the host of that name; raise UsageError where there is none."""
    return _named("host", name, HOSTS)


def guest_spec(name: str) -> GuestSpec | BareSpec:
    """Return the guest of that name; raise UsageError where there is none."""
    guests: tuple[GuestSpec | BareSpec, ...] = (*GUESTS, *BARE_GUESTS)
    return _named("guest", name, guests)


def guests_of_others() -> tuple[GuestSpec | BareSpec, ...]:
    """Return the guests of all architectures but the default one."""
    guests: tuple[GuestSpec | BareSpec, ...] = (*GUESTS, *BARE_GUESTS)
    return tuple(spec for spec in guests if spec.architecture != DEFAULT_ARCHITECTURE)


class _Named(Protocol):
    """Anything in the catalogue."""

    @property
    def name(self) -> str:
        """Its name in the catalogue."""


def _named(kind: str, name: str, specs: Sequence[_Spec]) -> _Spec:
    for spec in specs:
        if spec.name == name:
            return spec
    known = ", ".join(f"'{spec.name}'" for spec in specs)
    raise UsageError(f"There is no {kind} '{name}' in the catalogue, only {known}.")
