"""Puts the guest's initramfs together: busybox, dropbear, kernel modules, keys, the agent and /init."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from guest_images import cpio
from guest_images.elf import library_closure
from guest_images.init_script import HAND_OVER, HOST_KEY, INIT, INITTAB, MODULES_FOLDER
from guest_images.kernel_modules import Module
from guest_images.ssh_keys import GuestKeys
from harness.errors import SetupBroken

AGENT_PATH = "bin/snapproof-agent"

_FOLDERS = (
    "bin", "dev", "etc", "etc/dropbear", "lib", "lib64", MODULES_FOLDER, "proc", "root", "run", "sbin", "sys",
    "tmp", "usr", "usr/bin", "usr/sbin", "var", "var/log", "var/run",
)  # fmt: skip

_ETC = {
    "group": "root:x:0:\n",
    "inittab": INITTAB,
    # Without it glibc would look for databases in libraries that the image does not have.
    "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
    # `*` opens no password login; dropbear accepts the key all the same.
    "passwd": "root:*:0:0:root:/root:/bin/sh\n",
    "shells": "/bin/sh\n",
}

# Debian's programs name this loader, and it looks for libraries here.
_LOADER_FOLDER = "lib64"
_LIBRARY_FOLDER = "lib/x86_64-linux-gnu"


def build_initramfs(userland: Path, modules: Iterable[Module], keys: GuestKeys, agent: bytes) -> bytes:
    """Return the initramfs as an uncompressed cpio archive.

    Uncompressed, since QEMU hands it over at memory speed, an emulated CPU would be slow to unpack it,
    and bytes would depend on the version of the compressor.

    Args:
        userland: root of the unpacked busybox-static and dropbear-bin.
        modules: in the order to load them.
        keys: of the cache.
        agent: the agent as a static executable.

    Raises:
        SetupBroken: a program or library is missing in `userland`.
    """
    busybox = program(userland, "busybox")
    entries = [
        *(cpio.folder(path) for path in (*_FOLDERS, _LIBRARY_FOLDER)),
        cpio.folder("root/.ssh", 0o700),
        cpio.file("root/.ssh/authorized_keys", f"{keys.user_line}\n".encode(), 0o600),
        # The kernel opens it for /init before devtmpfs is mounted (Linux init/main.c).
        cpio.character_device("dev/console", 5, 1),
        cpio.file("init", INIT.encode(), 0o755),
        cpio.file("bin/busybox", busybox.read_bytes(), 0o755),
        cpio.link("bin/sh", "busybox"),
        cpio.file(AGENT_PATH, agent, 0o755),
        cpio.file(HOST_KEY, keys.host_dropbear, 0o600),
        *(cpio.file(f"etc/{name}", text.encode()) for name, text in _ETC.items()),
        *_dropbear(userland),
        *module_entries(modules),
    ]
    return cpio.archive(entries)


def disk_initramfs(userland: Path, modules: Iterable[Module], who: str, init: str) -> bytes:
    """Return an initramfs that mounts the disk named by `root=` and hands over to it, as a cpio archive.

    Args:
        userland: root of the unpacked busybox-static.
        modules: in the order to load them.
        who: speaks on the console.
        init: path of the disk's init.
    """
    folders = ("bin", "dev", "lib", MODULES_FOLDER, "mnt", "proc")
    script = HAND_OVER.replace("@WHO", who).replace("@INIT", init)
    return cpio.archive(
        [
            *(cpio.folder(path) for path in folders),
            cpio.character_device("dev/console", 5, 1),
            cpio.file("init", script.encode(), 0o755),
            cpio.file("bin/busybox", program(userland, "busybox").read_bytes(), 0o755),
            *module_entries(modules),
        ]
    )


def program(userland: Path, name: str) -> Path:
    """Find a program in unpacked packages; SetupBroken where it is not."""
    for folder in ("bin", "usr/bin", "sbin", "usr/sbin"):
        if (userland / folder / name).is_file():
            return userland / folder / name
    raise SetupBroken(f"The packages in '{userland}' do not include the program '{name}'.")


def _dropbear(userland: Path) -> Iterator[cpio.Entry]:
    dropbear = program(userland, "dropbear")
    yield cpio.file("usr/sbin/dropbear", dropbear.read_bytes(), 0o755)
    folders = (userland / "lib/x86_64-linux-gnu", userland / "usr/lib/x86_64-linux-gnu")
    for name, path in library_closure([dropbear], folders).items():
        folder = _LOADER_FOLDER if name.startswith("ld-linux") else _LIBRARY_FOLDER
        yield cpio.file(f"{folder}/{name}", path.read_bytes(), 0o755)


def module_entries(modules: Iterable[Module]) -> Iterator[cpio.Entry]:
    """The modules as files, and the list `order` of their names."""
    names = []
    for module in modules:
        names.append(f"{module.name}.ko\n")
        yield cpio.file(f"{MODULES_FOLDER}/{module.name}.ko", module.image)
    yield cpio.file(f"{MODULES_FOLDER}/order", "".join(names).encode())
