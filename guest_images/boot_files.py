"""Kernel, initramfs and disk of a VM as one folder of the cache, with the record of their inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

from guest_images.cache import publish_folder, read_json, to_json
from guest_images.guests.kernel_modules import Kernel
from guest_images.guests.ssh_keys import GuestKeys
from guest_images.packages.unpacked import InputRecord
from guest_images.provisioning import Provisioning

DISK_FILE = "disk.raw"
"""Name of the disk image in the folder."""

_KERNEL_FILE, _INITRD_FILE, _MANIFEST_FILE = "vmlinuz", "initrd.cpio", "manifest.json"


@dataclass(frozen=True)
class BootFiles:
    """A folder of the cache with all that a VM boots from.

    Attributes:
        folder: the folder; it has a disk only where one was built.
        kernel_release: what `uname -r` says in the VM, empty where only booting it tells.
        content: SHA256 in hex over kernel, initramfs and disk.
    """

    folder: Path
    kernel_release: str
    content: str

    @property
    def kernel(self) -> Path:
        """The Linux image."""
        return self.folder / _KERNEL_FILE

    @property
    def initrd(self) -> Path:
        """The initramfs."""
        return self.folder / _INITRD_FILE

    @property
    def disk(self) -> Path:
        """The disk image."""
        return self.folder / DISK_FILE

    def digest(self, cmdline: str) -> str:
        """Return the SHA256 in hex over the files and the kernel command line."""
        return hashlib.sha256(f"{self.content} {cmdline}".encode()).hexdigest()


def find_boot_files(folder: Path) -> BootFiles | None:
    """Return the files that `provide_boot_files` put into a folder, None where there is no such folder."""
    description = read_json(folder / _MANIFEST_FILE)
    if description is None:
        return None
    return BootFiles(folder, str(description["kernel_release"]), str(description["content"]))


def provide_boot_files(
    final: Path,
    manifest: Iterable[InputRecord],
    provisioning: Provisioning,
    what: str,
    make: Callable[[Path], tuple[Kernel, bytes]],
) -> BootFiles:
    """Return the boot files in a folder of the cache; build them where there is no such folder.

    Args:
        final: the folder, below a folder of the cache that has a lock of its own.
        manifest: every input of the files.
        provisioning: the cache and the log.
        what: names the VM in the log.
        make: puts DISK_FILE into a folder where the VM has a disk; returns the kernel and the initramfs.

    Raises:
        SetupBroken: the disk is full, or the cache cannot be written; and the errors of `make`.
    """
    found = find_boot_files(final)
    if found:
        return found
    with provisioning.locked_staging(final.parent.name) as staging:
        provisioning.log(f"Building {what}.")
        staged = staging / "image"
        staged.mkdir()
        kernel, initrd = make(staged)
        return _publish(staged, final, kernel, initrd, manifest)


def _publish(
    staged: Path, final: Path, kernel: Kernel, initrd: bytes, manifest: Iterable[InputRecord]
) -> BootFiles:
    """Add kernel, initramfs and manifest to a folder and move it to its place in the cache."""
    (staged / _KERNEL_FILE).write_bytes(kernel.image.read_bytes())
    (staged / _INITRD_FILE).write_bytes(initrd)
    description = {
        "kernel_release": kernel.release,
        "content": _content_digest(staged),
        "inputs": [asdict(record) for record in manifest],
    }
    (staged / _MANIFEST_FILE).write_bytes(to_json(description))
    publish_folder(staged, final)
    found = find_boot_files(final)
    assert found is not None, f"'{final}' was published and is not there"
    return found


def _content_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (_KERNEL_FILE, _INITRD_FILE, DISK_FILE):
        if (folder / name).exists():
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def keys_record(keys: GuestKeys) -> InputRecord:
    """Return the record of the SSH keys that a VM is built with."""
    public = f"{keys.user_line}\n{keys.host_line}\n"
    return InputRecord("guest keys", "ed25519", hashlib.sha256(public.encode()).hexdigest())


def code_record(name: str, *modules: ModuleType | str) -> InputRecord:
    """Return the record of the code that shapes a VM: after a change of it the old files are not found.

    Args:
        name: name of the record.
        modules: modules or paths of source files, in an order that stays.
    """
    files = [module if isinstance(module, str) else module.__file__ for module in modules]
    content = b"".join(Path(file).read_bytes() for file in files if file)
    digest = hashlib.sha256(content).hexdigest()
    return InputRecord(name, digest[:12], digest)
