"""Builds hosts, VMs to run QEMU in: a kernel, an initramfs that mounts a disk, a small Debian with Python."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from guest_images.boot_files import (
    DISK_FILE,
    code_record,
    keys_record,
    provide_boot_files,
)
from guest_images.cache import Cache
from guest_images.catalogue import HOST_BOOT_SECONDS, HOSTS, HostSpec, host_spec, suite
from guest_images.disks import cpio, ext4_image
from guest_images.disks.ext4_image import TreeArchive, fill_image, mkfs_packages
from guest_images.guests import init_script, initramfs, kernel_modules
from guest_images.guests.init_script import HOST_KEY
from guest_images.guests.initramfs import ETC_FILES, disk_initramfs
from guest_images.guests.kernel_modules import Kernel, find_kernel, kernel_packages, load_order, module_files
from guest_images.guests.ssh_keys import GuestKeys, guest_keys
from guest_images.hosts import compiled_python
from guest_images.hosts import init as host_init
from guest_images.hosts.compiled_python import compiled_modules
from guest_images.hosts.init import HOST_INIT
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
from harness.errors import NoSubject, UsageError
from harness.guest.identity import SshIdentity
from harness.qemu.architectures import DEFAULT_ARCHITECTURE, Architecture
from harness.qemu.disk import Disk, probe_disk

PACKAGES = ("base-files", "busybox-static", "dropbear-bin", "python3")
"""Packages of a host's disk; QEMU and test programs come on disks of their own or over SSH."""

# ext4 and zram load these by name, so no module lists them as dependencies.
_BY_NAME = ("crc32c_generic", "lzo_rle")

MODULES = ("virtio_pci", "virtio_net", "virtio_blk", "virtio_rng", *_BY_NAME, "ext4", "zram")
"""Drivers of a host."""

OWN_KERNEL_HOST = "debian-13"
"""The host of the catalogue whose Debian goes with a user's own kernel, and with kernels that we compile."""

# A kernel may have these built in under another name, or do without them.
_OPTIONAL = (*_BY_NAME, "zram")
# Room for files that are carried to a host, and for those of tests, which need a disk that supports O_DIRECT.
_FREE_MIB = 768
_ETC_FILES = {**ETC_FILES, "hosts": "127.0.0.1\tlocalhost\n"}
# QEMU's wrapper script, `exec:` migrations and our own scripts call these on a host.
_APPLETS = (
    "cat", "dd", "dmesg", "env", "false", "grep", "head", "hostname", "id", "ip", "kill", "ln", "ls", "mkdir",
    "mknod", "mount", "ps", "readlink", "rm", "sed", "sh", "sleep", "sync", "tail", "tee", "test", "true",
    "umount", "uname", "wc",
)  # fmt: skip
# With two processors QEMU 10.0.13 was seen to abort under TCG while the kernel sized PCI BARs
# (system/physmem.c, iotlb_to_section(): section_index < d->map.sections_nb): one processor changes the memory
# map during an access of the other to its APIC. So HOST_INIT starts the second one after all devices.
# On a busy machine, as beside another VM, ticks of the timer come late, and Linux on x86 panics in its boot
# ("IO-APIC + timer doesn't work!", arch/x86/kernel/apic/io_apic.c) unless it is told not to check them.
# An emulated processor pays for guards against speculation, which it does not do, with jumps to look up.
# Not `tsc=reliable`, which would spare it the HPET: on a busy machine Linux took the counter for one several
# times slower, and the clock of the VM ran ahead by minutes.
_KERNEL_WORDS = "loglevel=5 panic=-1 audit=0 root=/dev/vda rw maxcpus=1 no_timer_check mitigations=off"
# Folders that are links into /usr since Debian merged / and /usr.
_MERGED = ("bin", "lib", "lib64", "sbin")


@dataclass(frozen=True)
class HostImage:
    """Everything needed to boot a host and log in.

    Attributes:
        name: its name in the catalogue, or the file name of a kernel given by path.
        architecture: its processor.
        kernel: Linux image for QEMU's `-kernel`.
        initrd: initramfs.
        cmdline: kernel command line.
        disk: the disk with its root file system.
        identity: how to log in over SSH.
        release: what `uname -r` says in it, empty where only booting it tells.
        digest: SHA256 in hex over kernel, initramfs, disk and command line.
        manifest: every input by name, version and SHA256.
        packages: root of the unpacked packages that its disk has.
        boot_seconds: limit for its boot.
    """

    name: str
    architecture: Architecture
    kernel: Path
    initrd: Path
    cmdline: str
    disk: Disk
    identity: SshIdentity
    release: str
    digest: str
    manifest: tuple[InputRecord, ...]
    packages: Path
    boot_seconds: float = HOST_BOOT_SECONDS


def build_host(name: str, provisioning: Provisioning, *, refresh: bool = False) -> HostImage:
    """Return a host of the catalogue; build it where the cache lacks it.

    Args:
        name: a name in `catalogue.HOSTS`.
        provisioning: the mirror, the cache, and the log of slow steps.
        refresh: look for newer packages.

    Raises:
        UsageError: the catalogue has no such host.
        MachineryMissing, SetupBroken: as `unpacked.provide_tree`.
    """
    spec = host_spec(name)
    trees = _provide_trees(spec, provisioning, refresh=refresh)
    kernel = find_kernel(trees[0].root, spec.architecture)
    return _provide_host(
        _Inputs(name, spec.architecture, kernel, trees, guest_keys(provisioning)), provisioning
    )


def require_kernel(image: Path) -> None:
    """Raise NoSubject where a user's own kernel image does not exist."""
    if not image.is_file():
        raise NoSubject(
            f"There is no kernel image '{image}'; give the path of a {DEFAULT_ARCHITECTURE.linux_image}."
        )


def build_host_with_kernel(kernel: Kernel, provisioning: Provisioning) -> HostImage:
    """Return a host that boots a user's own kernel, with the Debian of the host `debian-13`.

    Args:
        kernel: the kernel, for the processor of that host.
        provisioning: the mirror, the cache, and the log of slow steps.

    Raises:
        NoSubject: the kernel image does not exist.
        UsageError: the folder with its modules does not exist, or has none.
        MachineryMissing, SetupBroken: as `unpacked.provide_tree`.
    """
    require_kernel(kernel.image)
    _require_modules(kernel)
    spec = host_spec(OWN_KERNEL_HOST)
    trees = _provide_trees(spec, provisioning)
    inputs = _Inputs(kernel.image.name, spec.architecture, kernel, trees, guest_keys(provisioning))
    return _provide_host(inputs, provisioning)


def _require_modules(kernel: Kernel) -> None:
    folder = kernel.modules_folder
    if folder is None:
        return
    if not folder.is_dir():
        raise UsageError(f"There is no folder '{folder}' with kernel modules.")
    if not module_files(kernel):
        raise UsageError(
            f"The folder '{folder}' has no kernel modules (*.ko); give the folder lib/modules/VERSION that "
            "'make modules_install INSTALL_MOD_PATH=...' of that kernel fills, or none if all is built in."
        )


def built_hosts(cache: Cache) -> dict[HostSpec, bool]:
    """Return every host of the catalogue, and whether the cache has its packages; build nothing."""
    return {spec: all(find_tree(wanted, cache) for wanted in _package_sets(spec)) for spec in HOSTS}


@dataclass(frozen=True)
class _Inputs:
    """All that one host is built from; `trees` has a tree for each set of `_package_sets`."""

    name: str
    architecture: Architecture
    kernel: Kernel
    trees: tuple[Tree, ...]
    keys: GuestKeys

    def manifest(self) -> tuple[InputRecord, ...]:
        packages = dict.fromkeys(record for tree in self.trees for record in tree.manifest)
        image = self.kernel.image
        kernel = InputRecord("kernel image", image.name, hashlib.sha256(image.read_bytes()).hexdigest())
        shaping = (cpio, elf, ext4_image, host_init, init_script, initramfs, kernel_modules)
        return (
            *packages,
            keys_record(self.keys),
            kernel,
            code_record("host builder", *shaping, compiled_python, __file__),
        )


def _package_sets(spec: HostSpec) -> tuple[PackageSet, ...]:
    packages = PackageSet("host", suite(spec.suite), PACKAGES)
    return kernel_packages(suite(spec.suite), spec.kernel), packages, mkfs_packages()


def _provide_trees(spec: HostSpec, provisioning: Provisioning, *, refresh: bool = False) -> tuple[Tree, ...]:
    wanted = _package_sets(spec)
    return tuple(provide_tree(packages, provisioning, refresh=refresh) for packages in wanted)


def _provide_host(inputs: _Inputs, provisioning: Provisioning) -> HostImage:
    manifest = inputs.manifest()
    final = provisioning.cache.path("hosts", f"{inputs.name}-{manifest_digest(manifest)[:12]}")
    files = provide_boot_files(
        final, manifest, provisioning, f"the host '{inputs.name}'", lambda folder: _make(inputs, folder)
    )
    cmdline = f"console={inputs.architecture.console} {_KERNEL_WORDS}"
    return HostImage(
        name=inputs.name,
        architecture=inputs.architecture,
        kernel=files.kernel,
        initrd=files.initrd,
        cmdline=cmdline,
        disk=probe_disk(files.disk),
        identity=SshIdentity("root", inputs.keys.user_private, inputs.keys.host_line),
        release=files.kernel_release,
        digest=files.digest(cmdline),
        manifest=manifest,
        packages=inputs.trees[1].root,
    )


def _make(inputs: _Inputs, folder: Path) -> tuple[Kernel, bytes]:
    """Make the host's disk in a folder; return its kernel and initramfs."""
    _, packages, mkfs = (tree.root for tree in inputs.trees)
    fill_image(
        mkfs,
        folder / DISK_FILE,
        lambda file: _write_root(packages, inputs.architecture, inputs.keys, file),
        label="host",
        journal=False,
        free_mib=_FREE_MIB,
    )
    initrd = disk_initramfs(packages, _modules(inputs.kernel), "snapproof-host", "/sbin/init")
    return inputs.kernel, initrd


def _modules(kernel: Kernel) -> Iterable[kernel_modules.Module]:
    """Return the modules that a host loads, none where its kernel has all of them built in."""
    present = module_files(kernel)
    wanted = [name for name in MODULES if name not in _OPTIONAL or name in present]
    return load_order(kernel, wanted) if present else ()


def _write_root(root: Path, architecture: Architecture, keys: GuestKeys, file: io.BufferedIOBase) -> int:
    """Write the disk's content as a tar archive; return the size of an image with it, in bytes.

    Files of releases from before Debian merged / and /usr go where later releases have them.
    """
    archive = TreeArchive(file, placed=_merged)
    for name in (*_MERGED, architecture.loader_folder):
        archive.add_folder(f"usr/{name}")
        archive.add_link(name, f"usr/{name}")
    # Before the packages' files, among which a Python that ran here may have left compiled ones.
    for name, content in compiled_modules(root, architecture).items():
        archive.add_file(name, content)
    archive.add_tree(root, skip=frozenset((*_MERGED, *(f"etc/{name}" for name in _ETC_FILES))))
    for name in ("dev", "disks", "proc", "root", "run", "sys", "tmp", "var/log", "var/run"):
        archive.add_folder(name)
    for name, text in _ETC_FILES.items():
        archive.add_file(f"etc/{name}", text.encode())
    for name in _APPLETS:
        archive.add_link(f"bin/{name}", "busybox")
    archive.add_file(HOST_KEY, keys.host_dropbear, (0o600, 0, 0))
    archive.add_folder("root/.ssh", 0o700)
    archive.add_file("root/.ssh/authorized_keys", f"{keys.user_line}\n".encode(), (0o600, 0, 0))
    archive.add_file("sbin/init", HOST_INIT.encode(), (0o755, 0, 0))
    archive.close()
    return archive.image_bytes


def _merged(name: str) -> str:
    """Return the path below /usr for a path below one of the merged folders, other paths as they are."""
    return f"usr/{name}" if name.startswith(tuple(f"{folder}/" for folder in _MERGED)) else name
