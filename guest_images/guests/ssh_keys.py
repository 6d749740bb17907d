"""Makes the SSH keys of guests and hosts, once per cache, in the formats of dropbear and OpenSSH."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from guest_images.cache import publish_file
from guest_images.provisioning import Provisioning
from harness.errors import SetupBroken

_TYPE = b"ssh-ed25519"


@dataclass(frozen=True)
class GuestKeys:
    """The keys that every guest and host of a cache is built with.

    Attributes:
        user_private: OpenSSH private key file, mode 0600, that opens every guest.
        user_line: the public half of that key, as a line of authorized_keys.
        host_line: the guests' public host key, `ssh-ed25519` and base64, for known_hosts.
        host_dropbear: the guests' private host key in dropbear's format.
        host_openssh: the same key in OpenSSH's format.
    """

    user_private: Path
    user_line: str
    host_line: str
    host_dropbear: bytes
    host_openssh: bytes


def guest_keys(provisioning: Provisioning) -> GuestKeys:
    """Return the keys of a cache, made at random at the first call.

    They are kept, so that equal inputs give byte-identical images.

    Raises:
        SetupBroken: a key file is damaged, or the cache cannot be written.
    """
    paths = [provisioning.cache.path("keys", name) for name in ("user_ed25519", "host_ed25519")]
    if not all(path.exists() for path in paths):
        with provisioning.lock("keys"):
            for path in paths:
                if not path.exists():
                    publish_file(path, _new_private_key(), 0o600)
    user, host = (_load(path) for path in paths)
    lines = public_line(user), public_line(host)
    return GuestKeys(paths[0], *lines, dropbear_private_key(host), paths[1].read_bytes())


def public_line(key: Ed25519PrivateKey) -> str:
    """Return the public half of a key as `ssh-ed25519 <base64>`."""
    return f"{_TYPE.decode()} {base64.b64encode(_string(_TYPE) + _string(_public_bytes(key))).decode()}"


def dropbear_private_key(key: Ed25519PrivateKey) -> bytes:
    """Return a private key as dropbear stores it: its type, then 32 private and 32 public bytes as a string.

    dropbear documents no format; this one is written by `dropbearkey -t ed25519` of 2020.81 to 2025.89.
    """
    private = key.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    return _string(_TYPE) + _string(private + _public_bytes(key))


def _string(content: bytes) -> bytes:
    # RFC 4251 section 5: length as a big-endian 32-bit number, then the bytes.
    return struct.pack(">I", len(content)) + content


def _public_bytes(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _new_private_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def _load(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SetupBroken(f"The SSH key '{path}' is damaged; delete it and run again.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SetupBroken(f"The SSH key '{path}' is not an Ed25519 key; delete it and run again.")
    return key
