"""Builds hosts: a kernel, an initramfs that mounts a disk, and a disk with a small Debian that has Python."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from guest_images import cpio, elf, ext4_image, init_script, initramfs, kernel_modules
from guest_images.architectures import ARCHITECTURES, Architecture
from guest_images.cache import Cache, Log, publish_folder, read_json, to_json
from guest_images.catalogue import HOSTS, USERLAND_SUITE, HostSpec, host_spec, suite
from guest_images.ext4_image import MKFS_PACKAGES, TreeArchive, fill_image
from guest_images.host_init import HOST_INIT
from guest_images.init_script import HOST_KEY, INITTAB
from guest_images.kernel_modules import Kernel, find_kernel, load_order
from guest_images.packages import InputRecord, PackageSet, Tree, find_tree, manifest_digest, provide_tree
from guest_images.ssh_keys import GuestKeys, guest_keys
from harness.disk import Disk, probe_disk
from harness.errors import NoSubject, UsageError
from harness.ssh import SshIdentity

PACKAGES = ("base-files", "busybox-static", "dropbear-bin", "python3")
"""What a host has; the rest comes with what is carried there."""

# What ext4 and zram ask for by name, so that it is no dependency in the modules.
_BY_NAME = ("crc32c_generic", "lzo_rle")

MODULES = ("virtio_pci", "virtio_net", "virtio_blk", "virtio_rng", *_BY_NAME, "ext4", "zram")
"""Drivers of a host."""

# What a kernel has built in under another name, or does without.
_OPTIONAL = (*_BY_NAME, "zram")
# For files that are carried to a host, and those of tests, which want a disk that knows O_DIRECT.
_FREE_MIB = 768
_DISK = "disk.raw"
_ETC = {
    "group": "root:x:0:\n",
    "hosts": "127.0.0.1\tlocalhost\n",
    "inittab": INITTAB,
    "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
    "passwd": "root:*:0:0:root:/root:/bin/sh\n",
    "shells": "/bin/sh\n",
}
# What runs on a host calls these: QEMU's wrapper, `exec:` migrations, our own scripts.
_APPLETS = (
    "cat", "dd", "dmesg", "env", "false", "grep", "head", "hostname", "id", "ip", "kill", "ln", "ls", "mkdir",
    "mknod", "mount", "ps", "readlink", "rm", "sed", "sh", "sleep", "sync", "tail", "tee", "test", "true",
    "umount", "uname", "wc",
)  # fmt: skip
# With two processors QEMU 10.0.13 was seen to abort under TCG while the kernel sized PCI BARs
# (system/physmem.c, iotlb_to_section(): section_index < d->map.sections_nb): one of them moves the memory map
# under an access of the other to its APIC. So the second one starts when all devices are in place.
_CMDLINE = "loglevel=5 panic=-1 audit=0 root=/dev/vda rw maxcpus=1"
_MERGED = ("bin", "lib", "lib64", "sbin")


@dataclass(frozen=True)
class HostImage:
    """Everything needed to boot a host and log in.

    Attributes:
        name: its name in the catalogue, or one for a kernel given by path.
        architecture: of its kernel.
        kernel: Linux image.
        initrd: initramfs.
        cmdline: kernel command line.
        disk: its root file system.
        identity: how to log in.
        release: of its kernel, empty where only running it tells.
        digest: SHA256 over kernel, initramfs, disk and command line.
        manifest: every input by name, version and SHA256.
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


@dataclass(frozen=True)
class HostKernel:
    """A kernel to boot a host with, other than a Debian package's.

    Attributes:
        image: the Linux image.
        modules: the folder with its modules, None where all that a host needs is built in.
    """

    image: Path
    modules: Path | None


def build_host(
    name: str, cache: Cache, log: Log, *, mirror: str | None = None, refresh: bool = False
) -> HostImage:
    """Return a host of the catalogue, built where the cache does not have it.

    Raises:
        UsageError: no such name. MachineryMissing, SetupBroken: see `packages.provide_tree`.
    """
    spec = host_spec(name)
    trees = [
        (None if refresh else find_tree(wanted, cache))
        or provide_tree(wanted, cache, log, mirror=mirror, refresh=refresh)
        for wanted in _package_sets(spec)
    ]
    architecture = ARCHITECTURES[suite(spec.suite).architecture]
    return _ready(spec.name, architecture, find_kernel(trees[0].root), trees, cache, log)


def require_kernel(image: Path) -> None:
    """Check that a kernel of one's own is there; raises NoSubject where it is not."""
    if not image.is_file():
        raise NoSubject(f"There is no kernel image '{image}'; give the path of a bzImage.")


def host_of_kernel(given: HostKernel, cache: Cache, log: Log, *, mirror: str | None = None) -> HostImage:
    """Return a host that boots a kernel of one's own (x86_64), with the Debian of the newest stable host.

    Raises:
        NoSubject: there is no such kernel. UsageError: there is no such folder. Others as `build_host`.
    """
    require_kernel(given.image)
    if given.modules is not None and not given.modules.is_dir():
        raise UsageError(f"There is no folder '{given.modules}' with kernel modules.")
    spec = host_spec("debian-13")
    trees = [
        find_tree(wanted, cache) or provide_tree(wanted, cache, log, mirror=mirror)
        for wanted in _package_sets(spec)
    ]
    kernel = Kernel(given.image, given.modules or given.image.parent / "no modules")
    return _ready(given.image.name, ARCHITECTURES["amd64"], kernel, trees, cache, log)


def built_hosts(cache: Cache) -> dict[HostSpec, bool]:
    """Every host of the catalogue, and whether its packages are in the cache; builds nothing."""
    return {spec: all(find_tree(wanted, cache) for wanted in _package_sets(spec)) for spec in HOSTS}


def _package_sets(spec: HostSpec) -> tuple[PackageSet, ...]:
    parts = ("linux-image-", "linux-binary-", "linux-modules-")
    # The guests' kernels are in the set `kernel`; where it is the same one, it is fetched once.
    usual = suite(spec.suite).architecture == "amd64"
    name = "kernel" if usual else "host-kernel"
    return (
        PackageSet(name, suite(spec.suite), (spec.kernel_package,), parts),
        PackageSet("host", suite(spec.suite), PACKAGES),
        PackageSet("mkfs", suite(USERLAND_SUITE), MKFS_PACKAGES),
    )


def _ready(
    name: str, architecture: Architecture, kernel: Kernel, trees: list[Tree], cache: Cache, log: Log
) -> HostImage:
    keys = guest_keys(cache, log)
    manifest = _manifest(kernel, trees, keys)
    final = cache.path("hosts", f"{name}-{manifest_digest(manifest)[:12]}")
    if read_json(final / "manifest.json") is None:
        _build(name, architecture, kernel, trees, keys, manifest, final, cache, log)
    description = read_json(final / "manifest.json")
    cmdline = f"console={architecture.console} {_CMDLINE}"
    return HostImage(
        name=name,
        architecture=architecture,
        kernel=final / "vmlinuz",
        initrd=final / "initrd.cpio",
        cmdline=cmdline,
        disk=probe_disk(final / _DISK),
        identity=SshIdentity("root", keys.user_private, keys.host_line),
        release=str(description["kernel_release"]),
        digest=hashlib.sha256(f"{description['content']} {cmdline}".encode()).hexdigest(),
        manifest=manifest,
    )


def _manifest(kernel: Kernel, trees: list[Tree], keys: GuestKeys) -> tuple[InputRecord, ...]:
    packages = dict.fromkeys(record for tree in trees for record in tree.manifest)
    public = f"{keys.user_line}\n{keys.host_line}\n"
    own = hashlib.sha256(kernel.image.read_bytes()).hexdigest()
    shaping = (cpio, elf, ext4_image, init_script, initramfs, kernel_modules)
    builder = hashlib.sha256(HOST_INIT.encode())
    for file in (*(module.__file__ for module in shaping), __file__):
        builder.update(Path(file).read_bytes() if file else b"")
    return (
        *packages,
        InputRecord("guest keys", "ed25519", hashlib.sha256(public.encode()).hexdigest()),
        InputRecord("kernel image", kernel.image.name, own),
        InputRecord("host builder", builder.hexdigest()[:12], builder.hexdigest()),
    )


def _build(
    name: str,
    architecture: Architecture,
    kernel: Kernel,
    trees: list[Tree],
    keys: GuestKeys,
    manifest: tuple[InputRecord, ...],
    final: Path,
    cache: Cache,
    log: Log,
) -> None:
    with cache.lock("hosts", log), cache.staging("hosts") as staging:
        log(f"Building the host '{name}'.")
        staged = staging / "host"
        staged.mkdir()
        root = trees[1].root
        fill_image(
            trees[2].root,
            staged / _DISK,
            lambda file: _write_root(root, architecture, keys, file),
            label="host",
            journal=False,
            free_mib=_FREE_MIB,
        )
        (staged / "vmlinuz").write_bytes(kernel.image.read_bytes())
        (staged / "initrd.cpio").write_bytes(
            initramfs.disk_initramfs(root, _modules(kernel), "snapproof-host", "/sbin/init")
        )
        content = hashlib.sha256()
        for file in ("vmlinuz", "initrd.cpio", _DISK):
            with (staged / file).open("rb") as opened:
                content.update(hashlib.file_digest(opened, "sha256").digest())
        description = {
            "kernel_release": kernel.release,
            "content": content.hexdigest(),
            "inputs": [asdict(record) for record in manifest],
        }
        (staged / "manifest.json").write_bytes(to_json(description))
        publish_folder(staged, final)


def _modules(kernel: Kernel) -> Iterable[kernel_modules.Module]:
    there = {path.name.partition(".ko")[0].replace("-", "_") for path in kernel.modules_folder.rglob("*.ko*")}
    wanted = [name for name in MODULES if name not in _OPTIONAL or name in there]
    return load_order(kernel, wanted) if there else ()


def _write_root(root: Path, architecture: Architecture, keys: GuestKeys, file: io.BufferedIOBase) -> int:
    """Debian of either kind, before and after it merged / and /usr, becomes one of the second kind."""
    archive = TreeArchive(file, placed=_merged)
    for name in (*_MERGED, architecture.loader_folder):
        archive.add_folder(f"usr/{name}")
        archive.add_link(name, f"usr/{name}")
    archive.add_tree(root, skip=frozenset((*_MERGED, *(f"etc/{name}" for name in _ETC))))
    for name in ("dev", "disks", "proc", "root", "run", "sys", "tmp", "var/log", "var/run"):
        archive.add_folder(name)
    for name, text in _ETC.items():
        archive.add_file(f"etc/{name}", text.encode())
    for name in _APPLETS:
        archive.add_link(f"bin/{name}", "busybox")
    archive.add_file(HOST_KEY, keys.host_dropbear, (0o600, 0, 0))
    archive.add_folder("root/.ssh", 0o700)
    archive.add_file("root/.ssh/authorized_keys", f"{keys.user_line}\n".encode(), (0o600, 0, 0))
    archive.add_file("sbin/init", HOST_INIT.encode(), (0o755, 0, 0))
    archive.close()
    return archive.needs


def _merged(name: str) -> str:
    return f"usr/{name}" if name.startswith(tuple(f"{folder}/" for folder in _MERGED)) else name
