"""Builds the initramfs of a VM: busybox, kernel modules, /init, and for a guest dropbear and the agent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from guest_images.disks import cpio
from guest_images.guests.init_script import DISK_INIT, HOST_KEY, INIT, INITTAB, MODULES_FOLDER
from guest_images.guests.kernel_modules import Module
from guest_images.guests.ssh_keys import GuestKeys
from guest_images.packages.elf import find_libraries
from guest_images.packages.unpacked import find_program
from harness.qemu.architectures import Architecture

AGENT_PATH = "bin/snapproof-agent"
"""Path of the agent in the guest, relative to the root."""

_FOLDERS = (
    "bin", "dev", "etc", "etc/dropbear", "lib", MODULES_FOLDER, "proc", "root", "run", "sbin", "sys", "tmp",
    "usr", "usr/bin", "usr/sbin", "var", "var/log", "var/run",
)  # fmt: skip

ETC_FILES = {
    "group": "root:x:0:\n",
    "inittab": INITTAB,
    # Without it glibc looks for databases in libraries that the image does not have.
    "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
    # `*` opens no password login; dropbear accepts the key all the same.
    "passwd": "root:*:0:0:root:/root:/bin/sh\n",
    "shells": "/bin/sh\n",
}
"""Files below /etc, by name, of every VM whose init is busybox."""


def guest_initramfs(
    userland: Path, architecture: Architecture, modules: Iterable[Module], keys: GuestKeys, agent: bytes
) -> bytes:
    """Return the initramfs of a guest that has no disk, as an uncompressed cpio archive.

    It is not compressed: QEMU copies it into the guest at memory speed, an emulated CPU unpacks slowly, and
    its bytes would depend on the version of the compressor.

    Args:
        userland: root of the unpacked busybox-static and dropbear-bin.
        architecture: the processor that they are built for.
        modules: the modules in the order to load them.
        keys: the SSH keys of the cache.
        agent: the agent as a static executable.

    Raises:
        SetupBroken: `userland` lacks a program or a library.
    """
    busybox = find_program(userland, "busybox")
    folders = {*_FOLDERS, architecture.loader_folder, _library_folder(architecture)}
    entries = [
        *(cpio.folder(path) for path in folders),
        cpio.folder("root/.ssh", 0o700),
        cpio.file("root/.ssh/authorized_keys", f"{keys.user_line}\n".encode(), 0o600),
        # The kernel opens it for /init before devtmpfs is mounted (Linux init/main.c).
        cpio.character_device("dev/console", 5, 1),
        cpio.file("init", INIT.encode(), 0o755),
        cpio.file("bin/busybox", (userland / busybox).read_bytes(), 0o755),
        cpio.link("bin/sh", "busybox"),
        cpio.file(AGENT_PATH, agent, 0o755),
        cpio.file(HOST_KEY, keys.host_dropbear, 0o600),
        *(cpio.file(f"etc/{name}", text.encode()) for name, text in ETC_FILES.items()),
        *_dropbear_entries(userland, architecture),
        *_module_entries(modules),
    ]
    return cpio.archive(entries)


def disk_initramfs(userland: Path, modules: Iterable[Module], speaker: str, init: str) -> bytes:
    """Return an initramfs that mounts the disk named by `root=` and starts its init, as a cpio archive.

    Args:
        userland: root of the unpacked busybox-static.
        modules: the modules in the order to load them.
        speaker: beginning of the lines that it prints on the console.
        init: path of the disk's init.

    Raises:
        SetupBroken: `userland` lacks busybox.
    """
    folders = ("bin", "dev", "lib", MODULES_FOLDER, "mnt", "proc")
    script = DISK_INIT.replace("@SPEAKER", speaker).replace("@INIT", init)
    busybox = find_program(userland, "busybox")
    return cpio.archive(
        [
            *(cpio.folder(path) for path in folders),
            cpio.character_device("dev/console", 5, 1),
            cpio.file("init", script.encode(), 0o755),
            cpio.file("bin/busybox", (userland / busybox).read_bytes(), 0o755),
            *_module_entries(modules),
        ]
    )


def _library_folder(architecture: Architecture) -> str:
    """Return the folder where the dynamic loader of Debian looks for libraries."""
    return f"lib/{architecture.triplet}"


def _dropbear_entries(userland: Path, architecture: Architecture) -> Iterator[cpio.ArchiveEntry]:
    dropbear = userland / find_program(userland, "dropbear")
    yield cpio.file("usr/sbin/dropbear", dropbear.read_bytes(), 0o755)
    libraries = _library_folder(architecture)
    folders = (userland / libraries, userland / "usr" / libraries)
    for name, path in find_libraries([dropbear], folders).items():
        folder = architecture.loader_folder if name == architecture.loader else libraries
        yield cpio.file(f"{folder}/{name}", path.read_bytes(), 0o755)


def _module_entries(modules: Iterable[Module]) -> Iterator[cpio.ArchiveEntry]:
    """Yield the modules as files, and the file `order` with their names."""
    names = []
    for module in modules:
        names.append(f"{module.name}.ko\n")
        yield cpio.file(f"{MODULES_FOLDER}/{module.name}.ko", module.image)
    yield cpio.file(f"{MODULES_FOLDER}/order", "".join(names).encode())
