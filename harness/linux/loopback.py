"""Find out whether this machine's loopback works, over which guests are logged in to."""

from __future__ import annotations

import socket

from harness.errors import SetupBroken

_SECONDS = 2.0


def loopback_refusal() -> str:
    """Return why no TCP connection over 127.0.0.1 can be made, "" if one can."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def require_loopback() -> None:
    """Check that guests can be reached.

    Raises:
        SetupBroken: they cannot; without this check the first guest would be waited for in vain.
    """
    why = loopback_refusal()
    if why:
        raise SetupBroken(
            f"Guests are reached over 127.0.0.1, and no connection can be made there: {why}. "
            "Set the loopback up ('ip link set lo up')."
        )
