"""How to log in to a guest; apart from what logs in, which takes 0.3 s to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SshIdentity:
    """How to log in to a guest.

    Attributes:
        user: login name.
        private_key: file with our private key.
        host_key: the guest's public host key, as ``ssh-ed25519 BASE64``; "" if it is not known.
        first_seen: file to keep the host key of the first login in, if `host_key` is not known.
    """

    user: str
    private_key: Path
    host_key: str
    first_seen: Path | None = None

    def pinned(self) -> str:
        """Return the host key that the guest must have, "" if any key is accepted, at the first login."""
        if self.host_key or self.first_seen is None or not self.first_seen.exists():
            return self.host_key
        return self.first_seen.read_text(encoding="ascii").strip()
