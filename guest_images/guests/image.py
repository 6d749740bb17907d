"""Builds guests: a Debian kernel with our initramfs, cached by the content of everything that goes in."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from guest_images.agent.bare_build import BareBuild, compile_bare, plan_bare
from guest_images.agent.build import AgentBuild, compile_agent, plan_agent
from guest_images.boot_files import (
    DISK_FILE,
    BootFiles,
    code_record,
    find_boot_files,
    keys_record,
    provide_boot_files,
)
from guest_images.cache import Cache
from guest_images.catalogue import (
    BARE_BOOT_SECONDS,
    BARE_GUESTS,
    BARE_OWN_MIB,
    BOOT_SECONDS,
    GUESTS,
    OWN_MIB,
    USERLAND_PACKAGES,
    BareSpec,
    GuestSpec,
    guest_spec,
    suite,
    userland_suite,
)
from guest_images.disks import cpio, ext4_image
from guest_images.disks.ext4_image import mkfs_packages
from guest_images.guests import full_guest, init_script, initramfs, kernel_modules, root_files
from guest_images.guests.initramfs import guest_initramfs
from guest_images.guests.kernel_modules import Kernel, find_kernel, guest_modules, kernel_packages, load_order
from guest_images.guests.ssh_keys import GuestKeys, guest_keys
from guest_images.packages import elf
from guest_images.packages.unpacked import (
    InputRecord,
    PackageSet,
    Tree,
    find_tree,
    manifest_digest,
    provide_tree,
)
from guest_images.provisioning import Provisioning
from harness.errors import MachineryMissing
from harness.qemu.architectures import DEFAULT_ARCHITECTURE, Architecture
from harness.qemu.disk import Disk, probe_disk

SSH_USER = "root"

_KERNEL_WORDS = (
    # Warnings and worse reach the console; the 200 lines below them cost 0.5 s on an emulated UART.
    "loglevel=5",
    # With -no-reboot a panic ends QEMU instead of leaving a guest that never answers.
    "panic=-1",
    # Linux on x86 checks for a number of loops, not for a time, whether the timer works (io_apic.c,
    # timer_irq_works()), and would panic on a host so busy that QEMU's ticks come late. Kernels of other
    # architectures ignore the word.
    "no_timer_check",
    # One huge page would hide 511 write faults.
    "transparent_hugepage=never",
    # Up to Linux 6.5 tracefs pins 10,000 inodes: 9 MiB of 512 that the agent cannot lock.
    "initcall_blacklist=tracer_init_tracefs",
    # Where memory above 4 GiB could be plugged in, a quarter of 256 MiB would become a bounce buffer.
    "swiotlb=noforce",
    # Not needed, and 0.5 MiB and 0.7 s of the boot under TCG.
    "ipv6.disable=1",
    "apparmor=0",
    "audit=0",
)


@dataclass(frozen=True)
class GuestImage:
    """Everything needed to boot a guest and log in.

    Attributes:
        name: its name in the catalogue, or a name for a user's own guest.
        kernel: Linux image for QEMU's `-kernel`, None where the disk boots by its own boot loader.
        initrd: initramfs, None where the kernel needs none.
        cmdline: kernel command line.
        ssh_user: the user to log in as.
        ssh_private_key: OpenSSH private key file that opens the guest, None for a bare one.
        ssh_host_key_line: the guest's host key, type and base64, to pin.
        digest: SHA256 in hex over kernel, initramfs, disk and command line.
        manifest: every input by name, version and SHA256.
        disk: its disk, None where it has none.
        agent: the agent's executable, to be copied in; None where the image has it as AGENT_PATH.
        own_mib: MiB of RAM that the guest needs beside the writers.
        boot_seconds: limit for its boot under TCG, from the start to an SSH login.
        architecture: its processor.
        bare: whether it is the agent alone, without an operating system.
        firmware: image for QEMU's `-bios`, None for QEMU's own.
    """

    name: str
    kernel: Path | None
    initrd: Path | None
    cmdline: str
    ssh_user: str
    ssh_private_key: Path | None
    ssh_host_key_line: str
    digest: str
    manifest: tuple[InputRecord, ...]
    disk: Disk | None = None
    agent: Path | None = None
    own_mib: int = OWN_MIB
    boot_seconds: float = BOOT_SECONDS
    architecture: Architecture = DEFAULT_ARCHITECTURE
    bare: bool = False
    firmware: Path | None = None

    @property
    def machine_arguments(self) -> tuple[str, ...]:
        """Further arguments for QEMU that it needs on its architecture."""
        bare = self.architecture.bare.machine_arguments if self.bare and self.architecture.bare else ()
        return (*self.architecture.machine_arguments, *bare)

    @property
    def slowness(self) -> float:
        """How many times as long as our usual guests it may take for anything, as it may for its boot."""
        return max(1.0, self.boot_seconds / BOOT_SECONDS)

    @property
    def kind(self) -> str:
        """Its kind, as in `ProfileRow.kinds`: `bare` or `linux`."""
        return "bare" if self.bare else "linux"


def build_guest(name: str, provisioning: Provisioning, *, refresh: bool = False) -> GuestImage:
    """Return a guest of the catalogue; build it where the cache lacks it.

    Args:
        name: a name in `catalogue.GUESTS`.
        provisioning: the mirror, the cache, and the log of slow steps.
        refresh: look for newer packages.

    Raises:
        UsageError: the catalogue has no such guest.
        MachineryMissing: no compiler, apt, mirror, keyring or network.
        SetupBroken: packages or sources that do not make a guest.
    """
    spec = guest_spec(name)
    if isinstance(spec, BareSpec):
        build = plan_bare(provisioning.cache, spec.architecture)
        return _bare_image(spec, compile_bare(build, provisioning))
    trees = [provide_tree(wanted, provisioning, refresh=refresh) for wanted in _package_sets(spec)]
    agent = plan_agent(provisioning.cache, architecture=spec.architecture)
    inputs = _Inputs(spec, tuple(trees), guest_keys(provisioning), agent)
    return _image(inputs, _built(inputs, provisioning))


def built_guests(provisioning: Provisioning) -> dict[GuestSpec | BareSpec, GuestImage | None]:
    """Return every guest of the catalogue, with None where it would have to be built; build nothing."""
    guests: dict[GuestSpec | BareSpec, GuestImage | None] = dict.fromkeys((*GUESTS, *BARE_GUESTS))
    keys, agents = guest_keys(provisioning), _plan_agents(provisioning.cache)
    for spec in GUESTS:
        wanted = _package_sets(spec)
        trees = [tree for packages in wanted if (tree := find_tree(packages, provisioning.cache))]
        # Without a compiler nothing can have been built from the agent's present sources.
        if spec.architecture in agents and len(trees) == len(wanted):
            inputs = _Inputs(spec, tuple(trees), keys, agents[spec.architecture])
            found = find_boot_files(inputs.folder(provisioning.cache))
            guests[spec] = _image(inputs, found) if found else None
    for bare in BARE_GUESTS:
        with contextlib.suppress(MachineryMissing):
            build = plan_bare(provisioning.cache, bare.architecture)
            guests[bare] = _bare_image(bare, build) if build.folder.exists() else None
    return guests


def _bare_image(spec: BareSpec, build: BareBuild) -> GuestImage:
    return GuestImage(
        name=spec.name,
        kernel=build.program,
        initrd=None,
        cmdline="",
        ssh_user="",
        ssh_private_key=None,
        ssh_host_key_line="",
        digest=build.digest(),
        manifest=build.records,
        own_mib=BARE_OWN_MIB,
        boot_seconds=BARE_BOOT_SECONDS,
        architecture=spec.architecture,
        bare=True,
        firmware=build.firmware,
    )


def _plan_agents(cache: Cache) -> dict[Architecture, AgentBuild]:
    """Return the plan of the agent for each architecture that there is a compiler for."""
    plans = {}
    for architecture in {spec.architecture for spec in GUESTS}:
        with contextlib.suppress(MachineryMissing):
            plans[architecture] = plan_agent(cache, architecture=architecture)
    return plans


@dataclass(frozen=True)
class _Inputs:
    """All that one guest is built from; `trees` has a tree for each set of `_package_sets`."""

    spec: GuestSpec
    trees: tuple[Tree, ...]
    keys: GuestKeys
    agent: AgentBuild

    def manifest(self) -> tuple[InputRecord, ...]:
        packages = dict.fromkeys(record for tree in self.trees for record in tree.manifest)
        return (*packages, *self.agent.records, keys_record(self.keys), _builder_record())

    def folder(self, cache: Cache) -> Path:
        kernel = self.trees[0].folder.name
        return cache.path("images", f"{kernel}-{manifest_digest(self.manifest())[:12]}")


def _builder_record() -> InputRecord:
    shaping = (cpio, elf, ext4_image, full_guest, init_script, initramfs, kernel_modules, root_files)
    return code_record("image builder", *shaping)


def _package_sets(spec: GuestSpec) -> tuple[PackageSet, ...]:
    userland = PackageSet("userland", userland_suite(spec.architecture), USERLAND_PACKAGES)
    sets = (kernel_packages(suite(spec.suite), spec.kernel), userland)
    if not spec.full:
        return sets
    return *sets, PackageSet("full", suite(spec.suite), full_guest.PACKAGES), mkfs_packages()


def _built(inputs: _Inputs, provisioning: Provisioning) -> BootFiles:
    """Return the guest's boot files, which are built where the cache lacks them."""

    def make(folder: Path) -> tuple[Kernel, bytes]:
        kernel = find_kernel(inputs.trees[0].root, inputs.spec.architecture)
        agent = compile_agent(inputs.agent, provisioning).read_bytes()
        if inputs.spec.full:
            return kernel, _build_disk(kernel, inputs, folder)
        architecture, userland = inputs.spec.architecture, inputs.trees[1].root
        modules = load_order(kernel, guest_modules(architecture))
        return kernel, guest_initramfs(userland, architecture, modules, inputs.keys, agent)

    final = inputs.folder(provisioning.cache)
    what = f"the guest '{inputs.spec.name}'"
    return provide_boot_files(final, inputs.manifest(), provisioning, what, make)


def _build_disk(kernel: Kernel, inputs: _Inputs, folder: Path) -> bytes:
    """Make the disk in a folder and return the initramfs that boots it."""
    _, userland, packages, mkfs = (tree.root for tree in inputs.trees)
    full_guest.build_disk(packages, mkfs, inputs.keys, folder / DISK_FILE)
    return full_guest.boot_initramfs(userland, load_order(kernel, full_guest.MODULES))


def _image(inputs: _Inputs, files: BootFiles) -> GuestImage:
    spec, keys = inputs.spec, inputs.keys
    words = [f"console={spec.architecture.console}", *_KERNEL_WORDS]
    words += [word for word in (spec.words, full_guest.DISK_CMDLINE if spec.full else "") if word]
    cmdline = " ".join(words)
    return GuestImage(
        name=spec.name,
        kernel=files.kernel,
        initrd=files.initrd,
        cmdline=cmdline,
        ssh_user=SSH_USER,
        ssh_private_key=keys.user_private,
        ssh_host_key_line=keys.host_line,
        digest=files.digest(cmdline),
        manifest=inputs.manifest(),
        disk=probe_disk(files.disk) if spec.full else None,
        agent=inputs.agent.executable if spec.full else None,
        own_mib=spec.own_mib,
        boot_seconds=spec.boot_seconds,
        architecture=spec.architecture,
    )
