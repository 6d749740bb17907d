"""Tells the processor of a user's own guest by its kernel."""

from __future__ import annotations

import zlib
from pathlib import Path

from harness.errors import UsageError
from harness.qemu.architectures import (
    ARCHITECTURES,
    DEFAULT_ARCHITECTURE,
    Architecture,
    kernel_architectures,
)
from snapproof.runs.options import OwnGuestOptions

# The signature of a kernel lies within it, on each architecture.
_HEAD_BYTES = 0x10100
_GZIP_MAGIC = b"\x1f\x8b"


def own_architecture(options: OwnGuestOptions, wanted: Architecture | None) -> Architecture | None:
    """Return the processor of the guest that the options describe, None if no option is given.

    Args:
        options: the user's files.
        wanted: the value of `--arch`.

    Raises:
        UsageError: the kernel cannot be read, is none, or is for another processor.
    """
    if not set(options.given()) - {"guest-needs"}:
        return None
    if options.kernel is None:
        # A disk does not say for which processor it is.
        return wanted or DEFAULT_ARCHITECTURE
    found = kernel_architectures_of(options.kernel)
    if wanted is None or wanted in found:
        return wanted or found[0]
    raise UsageError(
        f"'{options.kernel}' is a Linux kernel for {found[0].name}, and --arch says {wanted.name}; correct "
        "one of them."
    )


def kernel_architectures_of(path: Path) -> list[Architecture]:
    """Return the architectures that a kernel may be for.

    Raises:
        UsageError: the file cannot be read, or is no Linux kernel for any of them.
    """
    require_file(path, "kernel")
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(_GZIP_MAGIC):
        # As arm64 kernels are often kept, which QEMU takes.
        head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, _HEAD_BYTES)
    found = kernel_architectures(head)
    if not found:
        known = ", ".join(entry.name for entry in ARCHITECTURES)
        raise UsageError(
            f"'{path}' is not a Linux kernel for any of {known}: it has neither the header of such an image "
            "nor that of an ELF file."
        )
    return found


def require_file(path: Path, what: str) -> None:
    """Check that a file can be read and is not empty; `what` names it in the UsageError."""
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise UsageError(f"The {what} '{path}' cannot be read: {error.strerror}.") from error
    if empty:
        raise UsageError(f"The {what} '{path}' is empty; name another file.")
