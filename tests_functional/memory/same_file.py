"""Shell commands for a file of equal pages in the guest's memory, which KSM merges, and for writes to it."""

from __future__ import annotations

_FILE = "/tmp/same"
_PIECE_BYTES = 64 << 10


def fill_file(mib: int) -> str:
    """Return a command that makes a file of equal pages in tmpfs.

    It is put together from ever larger parts: `yes` alone would take a minute under TCG for 32 MiB.
    """
    return (
        f"cd /tmp; yes | head -c {_PIECE_BYTES} > part; for i in $(seq 16); do cat part; done > mib; "
        f"for i in $(seq {mib}); do cat mib; done > {_FILE}; rm part mib"
    )


def write_file(mib: int) -> str:
    """Return a command that starts to give each piece of the file other content, in the background.

    One program for all of it: to start one for each piece takes a guest whose pages are protected seconds.
    """
    pieces = (mib << 20) // _PIECE_BYTES
    return f"dd if=/dev/urandom of={_FILE} bs={_PIECE_BYTES} count={pieces} conv=notrunc > /dev/null 2>&1 &"
