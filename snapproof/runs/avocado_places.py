"""Where Avocado looks and listens: not at the user's settings, and at a socket whose path is short enough."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from harness.linux.socket_folder import socket_folder

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

    A server that cannot listen says so only in its log, and no test's end is ever told.

    Raises:
        SetupBroken: there is no place for a socket.
    """
    with socket_folder() as folder:
        yield folder / "status"
