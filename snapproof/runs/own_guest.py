"""Makes a guest image of the user's own files, and says what is wrong with them."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guest_images.agent.build import compile_agent, plan_agent
from guest_images.cache import Cache
from guest_images.guests.image import GuestImage
from guest_images.packages.unpacked import InputRecord
from harness.errors import UsageError
from harness.guest.ssh import host_key, require_private_key
from harness.qemu.architectures import DEFAULT_ARCHITECTURE
from harness.qemu.disk import probe_disk
from snapproof.runs.defaults import OWN_CMDLINE, OWN_MIB

# A full Debian answers after 16 s under TCG; another guest may be larger.
_BOOT_SECONDS = 300.0

_PATHS = ("disk", "kernel", "initrd", "ssh_key")
_TEXTS = ("cmdline", "ssh_user", "ssh_host_key", "guest_needs")

# QEMU takes an ELF vmlinux as well as the usual image.
_ELF_SIGNATURE = (0, b"\x7fELF")


def own_image(arguments: argparse.Namespace, cache: Cache, log: Callable[[str], None]) -> GuestImage | None:
    """The guest that the arguments describe, None where they name none.

    Raises:
        UsageError: a file is missing or is not what it should be, or an argument lacks its companion.
        MachineryMissing, SetupBroken: the agent cannot be compiled.
    """
    given: dict[str, Any] = {name: getattr(arguments, name, None) for name in (*_PATHS, *_TEXTS)}
    if all(value is None for value in given.values()):
        return None
    disk_file, kernel, initrd, key = (given[name] for name in _PATHS)
    _require_companions(given)
    disk = probe_disk(disk_file) if disk_file else None
    if kernel:
        _require_kernel(kernel)
    if initrd:
        _require_file(initrd, "initramfs")
    require_private_key(key)
    pinned = given["ssh_host_key"] or ""
    if pinned:
        host_key(pinned)
    log("Taking the digest of your guest's files.")
    manifest = tuple(_record(name, given[name]) for name in ("disk", "kernel", "initrd") if given[name])
    cmdline = (given["cmdline"] or OWN_CMDLINE) if kernel else ""
    return GuestImage(
        name=(disk_file or kernel).name,
        kernel=_absolute(kernel),
        initrd=_absolute(initrd),
        cmdline=cmdline,
        ssh_user=given["ssh_user"] or "root",
        ssh_private_key=key.absolute(),
        ssh_host_key_line=" ".join(pinned.split()[:2]),
        digest=_digest(manifest, cmdline),
        manifest=manifest,
        disk=disk,
        agent=compile_agent(plan_agent(cache), cache, log),
        own_mib=given["guest_needs"] or OWN_MIB,
        boot_seconds=_BOOT_SECONDS,
    )


def own_command(arguments: argparse.Namespace) -> list[str]:
    """The arguments that describe the same guest again."""
    command: list[str] = []
    for name in (*_PATHS, *_TEXTS):
        value = getattr(arguments, name, None)
        if value is not None:
            option = f"--{name.replace('_', '-')}"
            command += [option, str(value.absolute() if isinstance(value, Path) else value)]
    return command


def _require_companions(given: dict[str, Any]) -> None:
    if not given["disk"] and not (given["kernel"] and given["initrd"]):
        raise UsageError(
            "Your own guest needs --disk, or --kernel and --initrd together; the other options only say how "
            "to boot it and log in."
        )
    if not given["ssh_key"]:
        raise UsageError("Your own guest needs --ssh-key, the private key file that opens it over SSH.")
    if not given["kernel"] and (given["initrd"] or given["cmdline"]):
        raise UsageError("The options --initrd and --cmdline are for a kernel, and there is no --kernel.")
    if given["guest_needs"] is not None and given["guest_needs"] < 1:
        raise UsageError(f"--guest-needs is a number of MiB above 0, not {given['guest_needs']}.")


def _require_file(path: Path, what: str) -> None:
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise UsageError(f"The {what} '{path}' cannot be read: {error.strerror}.") from error
    if empty:
        raise UsageError(f"The {what} '{path}' is empty.")


def _require_kernel(path: Path) -> None:
    _require_file(path, "kernel")
    with path.open("rb") as file:
        head = file.read(0x210)
    architecture = DEFAULT_ARCHITECTURE
    signatures = (architecture.linux_signature, _ELF_SIGNATURE)
    if not any(head[at : at + len(signature)] == signature for at, signature in signatures):
        raise UsageError(
            f"'{path}' is not a Linux kernel for {architecture.name}: it is neither a "
            f"{architecture.linux_image} nor an ELF file."
        )


def _record(name: str, path: Path) -> InputRecord:
    with path.open("rb") as file:
        return InputRecord(name, str(path.absolute()), hashlib.file_digest(file, "sha256").hexdigest())


def _digest(manifest: tuple[InputRecord, ...], cmdline: str) -> str:
    lines = [f"{record.name} {record.sha256}\n" for record in manifest]
    return hashlib.sha256("".join([*lines, cmdline]).encode()).hexdigest()


def _absolute(path: Path | None) -> Path | None:
    return path.absolute() if path else None
