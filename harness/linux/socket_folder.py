"""Makes folders whose paths are short enough for UNIX sockets."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import SetupBroken

# Linux include/uapi/linux/un.h: sun_path has 108 bytes, the last of which is 0.
_MOST_BYTES = 107
# As long as the longest name that is used.
_TRIED = "socket-0.qtest"


@contextmanager
def socket_folder() -> Iterator[Path]:
    """Yield a new folder in which sockets can be made; it is deleted with all that is in it.

    Its path is short and has no ":", by which some programs tell a network address. The path of a results
    folder, and $TMPDIR, may be neither. It is tried here whether a process can listen in it.

    Raises:
        SetupBroken: there is no place for a socket.
    """
    why = "no place was found"
    for place in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        if not place or ":" in place:
            continue
        try:
            folder = tempfile.TemporaryDirectory(prefix="snapproof-", dir=place)
        except OSError as error:
            why = f"'{place}': {error.strerror}"
            continue
        with folder:
            refused = _refusal(Path(folder.name, _TRIED))
            if refused:
                why = f"'{place}': {refused}"
                continue
            yield Path(folder.name)
            return
    raise SetupBroken(
        f"No socket can be made ({why}); set TMPDIR to a folder with a short path that can be written to."
    )


def _refusal(path: Path) -> str:
    """Return why nobody can listen at a path, "" if it works."""
    if len(os.fsencode(path)) > _MOST_BYTES:
        return "its path is too long for a socket"
    try:
        with socket.socket(socket.AF_UNIX) as tried:
            tried.bind(os.fspath(path))
        path.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return ""
