"""Builds guests: a Debian kernel with our initramfs, cached by the content of everything that goes in."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from guest_images import cpio, elf, ext4_image, full_guest, init_script, initramfs, kernel_modules, root_files
from guest_images.agent_build import AgentBuild, compile_agent, plan_agent
from guest_images.cache import Cache, Log, publish_folder, read_json, to_json
from guest_images.catalogue import (
    BOOT_SECONDS,
    GUESTS,
    OWN_MIB,
    USERLAND_PACKAGES,
    USERLAND_SUITE,
    GuestSpec,
    guest_spec,
    suite,
)
from guest_images.initramfs import build_initramfs
from guest_images.kernel_modules import Kernel, find_kernel, load_order
from guest_images.packages import InputRecord, PackageSet, Tree, find_tree, manifest_digest, provide_tree
from guest_images.ssh_keys import GuestKeys, guest_keys
from harness.disk import Disk, probe_disk
from harness.errors import MachineryMissing

SSH_USER = "root"

_DISK = "disk.raw"

CMDLINE = " ".join(
    (
        "console=ttyS0",
        # Warnings and worse reach the console; the 200 lines below them cost 0.5 s on an emulated UART.
        "loglevel=5",
        # With -no-reboot a panic ends QEMU instead of leaving a guest that never answers.
        "panic=-1",
        # Whether the timer works is tried for so many loops, not for so long (Linux io_apic.c,
        # timer_irq_works()): on a host so busy that QEMU's ticks come late, the kernel would panic.
        "no_timer_check",
        # One huge page would hide 511 write faults.
        "transparent_hugepage=never",
        # Up to Linux 6.5 tracefs pins 10,000 inodes: 9 MiB of 512 that the writer cannot lock.
        "initcall_blacklist=tracer_init_tracefs",
        # Where memory above 4 GiB could be plugged in, a quarter of 256 MiB would become a bounce buffer.
        "swiotlb=noforce",
        # Not needed, and 0.5 MiB and 0.7 s of the boot under TCG.
        "ipv6.disable=1",
        "apparmor=0",
        "audit=0",
    )
)
"""Kernel command line of every guest: for a fast boot and the most memory for the writer."""


@dataclass(frozen=True)
class GuestImage:
    """Everything needed to boot a guest and log in.

    Attributes:
        name: its name in the catalogue, or a name for a user's own guest.
        kernel: bzImage.
        initrd: initramfs.
        cmdline: kernel command line.
        ssh_user: who logs in.
        ssh_private_key: OpenSSH private key file that opens the guest.
        ssh_host_key_line: the guest's host key, type and base64, to pin.
        digest: SHA256 over kernel, initramfs and command line.
        manifest: every input by name, version and SHA256.
        disk: its disk, where it has one.
        agent: our program for the guest, to be copied in; None where the image has it as AGENT_PATH.
        own_mib: MiB of RAM that the guest needs beside the writers.
        boot_seconds: limit for its boot under TCG, from start to an SSH login.
    """

    name: str
    kernel: Path | None
    initrd: Path | None
    cmdline: str
    ssh_user: str
    ssh_private_key: Path
    ssh_host_key_line: str
    digest: str
    manifest: tuple[InputRecord, ...]
    disk: Disk | None = None
    agent: Path | None = None
    own_mib: int = OWN_MIB
    boot_seconds: float = BOOT_SECONDS


def build_guest(
    name: str, cache: Cache, log: Log, *, mirror: str | None = None, refresh: bool = False
) -> GuestImage:
    """Return a guest of the catalogue, built where the cache does not have it.

    Args:
        name: a name in `catalogue.GUESTS`.
        cache: where packages, keys and images are kept.
        log: told what takes time.
        mirror: a Debian mirror to use instead of the machine's own apt sources.
        refresh: look for newer packages.

    Raises:
        UsageError: no such name.
        MachineryMissing: no compiler, apt, mirror, keyring or network.
        SetupBroken: packages or sources that do not make a guest.
    """
    spec = guest_spec(name)
    trees = [
        (None if refresh else find_tree(wanted, cache))
        or provide_tree(wanted, cache, log, mirror=mirror, refresh=refresh)
        for wanted in _package_sets(spec)
    ]
    inputs = _Inputs(tuple(trees), guest_keys(cache, log), plan_agent(cache))
    return _image(spec, inputs, cache) or _build(spec, inputs, cache, log)


def built_guests(cache: Cache, log: Log) -> dict[GuestSpec, GuestImage | None]:
    """Every guest of the catalogue, with None where `build_guest` would have to build; builds nothing."""
    found: dict[GuestSpec, GuestImage | None] = dict.fromkeys(GUESTS)
    try:
        keys, agent = guest_keys(cache, log), plan_agent(cache)
    except MachineryMissing:
        # Without a compiler nothing can have been built from the agent's present sources.
        return found
    for spec in GUESTS:
        trees = [tree for wanted in _package_sets(spec) if (tree := find_tree(wanted, cache))]
        if len(trees) == len(_package_sets(spec)):
            found[spec] = _image(spec, _Inputs(tuple(trees), keys, agent), cache)
    return found


@dataclass(frozen=True)
class _Inputs:
    # As _package_sets lists them.
    trees: tuple[Tree, ...]
    keys: GuestKeys
    agent: AgentBuild

    def manifest(self) -> tuple[InputRecord, ...]:
        packages = dict.fromkeys(record for tree in self.trees for record in tree.manifest)
        return (*packages, *self.agent.records, self._keys(), _builder())

    def _keys(self) -> InputRecord:
        public = f"{self.keys.user_line}\n{self.keys.host_line}\n"
        return InputRecord("guest keys", "ed25519", hashlib.sha256(public.encode()).hexdigest())


def _builder() -> InputRecord:
    # The code that shapes the image is an input too: a change there must not find the old image.
    shaping = (cpio, elf, ext4_image, full_guest, init_script, initramfs, kernel_modules, root_files)
    files = [module.__file__ for module in shaping]
    content = b"".join(Path(file).read_bytes() for file in files if file)
    digest = hashlib.sha256(content).hexdigest()
    return InputRecord("image builder", digest[:12], digest)


def _package_sets(spec: GuestSpec) -> tuple[PackageSet, ...]:
    # Of what the kernel package depends on, only the kernel and its modules are of use here; the rest
    # is there to make an initramfs. Since Linux 7 the kernel is split into linux-binary and linux-modules.
    parts = ("linux-image-", "linux-binary-", "linux-modules-")
    kernel = PackageSet("kernel", suite(spec.suite), (spec.kernel_package,), parts)
    sets = (kernel, PackageSet("userland", suite(USERLAND_SUITE), USERLAND_PACKAGES))
    if not spec.full:
        return sets
    packages = PackageSet("full", suite(spec.suite), full_guest.PACKAGES)
    return *sets, packages, PackageSet("mkfs", suite(USERLAND_SUITE), ext4_image.MKFS_PACKAGES)


def _folder(inputs: _Inputs, cache: Cache) -> Path:
    kernel = inputs.trees[0].folder.name
    return cache.path("images", f"{kernel}-{manifest_digest(inputs.manifest())[:12]}")


def _image(spec: GuestSpec, inputs: _Inputs, cache: Cache) -> GuestImage | None:
    folder = _folder(inputs, cache)
    description = read_json(folder / "manifest.json")
    if description is None:
        return None
    keys = inputs.keys
    cmdline = f"{CMDLINE} {full_guest.DISK_CMDLINE}" if spec.full else CMDLINE
    return GuestImage(
        name=spec.name,
        kernel=folder / "vmlinuz",
        initrd=folder / "initrd.cpio",
        cmdline=cmdline,
        ssh_user=SSH_USER,
        ssh_private_key=keys.user_private,
        ssh_host_key_line=keys.host_line,
        digest=hashlib.sha256(f"{description['content']} {cmdline}".encode()).hexdigest(),
        manifest=inputs.manifest(),
        disk=probe_disk(folder / _DISK) if spec.full else None,
        agent=inputs.agent.executable if spec.full else None,
        own_mib=spec.own_mib,
        boot_seconds=spec.boot_seconds,
    )


def _initramfs(kernel: Kernel, inputs: _Inputs, agent: bytes) -> bytes:
    return build_initramfs(inputs.trees[1].root, load_order(kernel), inputs.keys, agent)


def _full(kernel: Kernel, inputs: _Inputs, folder: Path) -> bytes:
    """Make the disk in `folder` and return the initramfs that boots it."""
    _, userland, packages, mkfs = (tree.root for tree in inputs.trees)
    full_guest.build_disk(packages, mkfs, inputs.keys, folder / _DISK)
    return full_guest.boot_initramfs(userland, load_order(kernel, full_guest.MODULES))


def _content(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in ("vmlinuz", "initrd.cpio", _DISK):
        if (folder / name).exists():
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _build(spec: GuestSpec, inputs: _Inputs, cache: Cache, log: Log) -> GuestImage:
    final = _folder(inputs, cache)
    with cache.lock("images", log), cache.staging("images") as staging:
        log(f"Building the guest '{spec.name}'.")
        staged = staging / "image"
        staged.mkdir()
        kernel = find_kernel(inputs.trees[0].root)
        agent = compile_agent(inputs.agent, cache, log).read_bytes()
        initrd = _full(kernel, inputs, staged) if spec.full else _initramfs(kernel, inputs, agent)
        (staged / "vmlinuz").write_bytes(kernel.image.read_bytes())
        (staged / "initrd.cpio").write_bytes(initrd)
        description = {
            "kernel_release": kernel.release,
            "content": _content(staged),
            "inputs": [asdict(record) for record in inputs.manifest()],
        }
        (staged / "manifest.json").write_bytes(to_json(description))
        publish_folder(staged, final)
    built = _image(spec, inputs, cache)
    assert built is not None, f"'{final}' was published and is not there"
    return built
