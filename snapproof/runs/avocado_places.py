"""Where Avocado looks and listens: not at the user's settings, and at a socket whose path is short enough."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.errors import SetupBroken

# Linux include/uapi/linux/un.h: sun_path has 108 bytes, the last of which is 0.
_MOST_BYTES = 107
_SETTINGS = "VIRTUAL_ENV"
# tests_functional/lib/avocado_test.py gives it back to the test.
_GIVEN = "SNAPPROOF_VIRTUAL_ENV"


@contextlib.contextmanager
def own_settings(folder: Path) -> Iterator[None]:
    """Let Avocado, imported in this block, and the tests that it starts read no avocado.conf but its own.

    It reads /etc/avocado and the user's settings, by which a spawner or a result plug-in would change what a
    run does; where $VIRTUAL_ENV is set, it looks below that folder instead.

    Args:
        folder: an empty one, or one that Avocado itself writes to.
    """
    before = os.environ.get(_SETTINGS)
    os.environ[_SETTINGS] = str(folder)
    os.environ[_GIVEN] = before or ""
    try:
        yield
    finally:
        del os.environ[_GIVEN]
        if before:
            os.environ[_SETTINGS] = before
        else:
            del os.environ[_SETTINGS]


@contextlib.contextmanager
def status_socket() -> Iterator[Path]:
    """Yield a path that Avocado's status server can listen at, in a new folder of its own.

    The path must be short, and hold no ":", by which Avocado tells a network address; $TMPDIR may be neither.
    A server that cannot listen says so only in its log, and no test's end is ever told: so it is tried here.

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
            path = Path(folder.name, "status")
            refused = _refusal(path)
            if refused:
                why = f"'{place}': {refused}"
                continue
            yield path
            return
    raise SetupBroken(
        f"The tests' results cannot be received, because no socket can be made ({why}); set TMPDIR to a "
        "folder with a short path that can be written to."
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
