"""Checks the files of a user's own guest, and makes the guest image of a run from them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from guest_images.agent.build import compile_agent, plan_agent
from guest_images.guests.image import GuestImage
from guest_images.packages.unpacked import InputRecord
from guest_images.provisioning import Provisioning
from harness.errors import UsageError
from harness.guest.ssh import host_key, require_private_key
from harness.qemu.architectures import DEFAULT_ARCHITECTURE, Architecture
from harness.qemu.disk import probe_disk
from snapproof.runs.defaults import OWN_MIB, own_cmdline
from snapproof.runs.options import OwnGuestOptions
from snapproof.runs.own_kernel import kernel_architectures_of, require_file

# A full Debian answers after 16 s under TCG; another guest may be larger.
_BOOT_SECONDS = 300.0


def own_image(
    options: OwnGuestOptions, provisioning: Provisioning, architecture: Architecture = DEFAULT_ARCHITECTURE
) -> GuestImage | None:
    """Return the guest that the options describe, None if no option is given.

    Args:
        options: the user's files.
        provisioning: the cache, and the log of slow steps.
        architecture: as `own_architecture` returns it.

    Raises:
        UsageError: a file is missing or of the wrong kind, or an option needs another one.
        MachineryMissing, SetupBroken: the agent cannot be compiled.
    """
    if options.guest_needs is not None and options.guest_needs < 1:
        raise UsageError(f"--guest-needs is a number of MiB above 0, not {options.guest_needs}.")
    if not set(options.given()) - {"guest-needs"}:
        return None
    main, key = _require_companions(options)
    kernel, initrd = options.kernel, options.initrd
    disk = probe_disk(options.disk) if options.disk else None
    if kernel:
        kernel_architectures_of(kernel)
    if initrd:
        require_file(initrd, "initramfs")
    require_private_key(key)
    pinned = options.ssh_host_key or ""
    if pinned:
        host_key(pinned)
    provisioning.log("Taking the digest of your guest's files.")
    files = {"disk": options.disk, "kernel": kernel, "initrd": initrd}
    manifest = tuple(_record(name, path) for name, path in files.items() if path)
    cmdline = (options.cmdline or own_cmdline(architecture)) if kernel else ""
    return GuestImage(
        name=main.name,
        kernel=_absolute(kernel),
        initrd=_absolute(initrd),
        cmdline=cmdline,
        ssh_user=options.ssh_user or "root",
        ssh_private_key=key.absolute(),
        ssh_host_key_line=" ".join(pinned.split()[:2]),
        digest=_digest(manifest, cmdline),
        manifest=manifest,
        disk=disk,
        agent=compile_agent(plan_agent(provisioning.cache, architecture=architecture), provisioning),
        own_mib=options.guest_needs or OWN_MIB,
        boot_seconds=_BOOT_SECONDS,
        architecture=architecture,
    )


def _require_companions(options: OwnGuestOptions) -> tuple[Path, Path]:
    """Check that no option is missing; return the file that gives the guest its name, and the SSH key."""
    main = options.disk or options.kernel
    if main is None or not (options.disk or options.initrd):
        raise UsageError(
            "Your own guest needs --disk, or --kernel and --initrd together; the other options only say how "
            "to boot it and log in."
        )
    if not options.ssh_key:
        raise UsageError("Your own guest needs --ssh-key, the private key file that opens it over SSH.")
    if not options.kernel and (options.initrd or options.cmdline):
        raise UsageError("--initrd and --cmdline need --kernel; add it, or leave them out.")
    return main, options.ssh_key


def _record(name: str, path: Path) -> InputRecord:
    with path.open("rb") as file:
        return InputRecord(name, str(path.absolute()), hashlib.file_digest(file, "sha256").hexdigest())


def _digest(manifest: tuple[InputRecord, ...], cmdline: str) -> str:
    lines = [f"{record.name} {record.sha256}\n" for record in manifest]
    return hashlib.sha256("".join([*lines, cmdline]).encode()).hexdigest()


def _absolute(path: Path | None) -> Path | None:
    return path.absolute() if path else None
