"""A real OpenSSH server on a loopback port, with a configuration and keys of its own, for tests."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from guest_images.cache import Cache
from guest_images.catalogue import suite
from guest_images.guests.ssh_keys import public_line
from guest_images.packages.loader import find_loader
from guest_images.packages.unpacked import PackageSet, find_tree, provide_tree
from guest_images.provisioning import Provisioning
from harness.deadline import Deadline
from harness.hosts.spec import SshAddress
from harness.process import ChildProcess, log_tail

# Before 9.8 the server is one program, which can be run from where its package was unpacked.
_SSHD = PackageSet("sshd", suite("debian-12"), ("openssh-server",))
# The server drops root's rights for a user of its own; a root without that user lends it one, in a mount
# namespace that ends with the server.
_AS_ROOT = """\
mount --make-rprivate / && mount --bind "$1" /etc/passwd || exit 9
mount -t tmpfs tmpfs /run && mkdir /run/sshd || exit 9
shift; exec "$@"
"""


@dataclass(frozen=True)
class RealSshd:
    """A running server: how to get in, and its log."""

    address: SshAddress
    log: Path
    pid: int


@contextlib.contextmanager
def real_sshd(folder: Path, cache: Cache) -> Iterator[RealSshd]:
    """Run an OpenSSH server for this user; it is ended on leaving.

    Raises:
        MachineryMissing, SetupBroken: its package cannot be had.
    """
    tree = find_tree(_SSHD, cache) or provide_tree(_SSHD, Provisioning(cache, print))
    host, user = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    for name, key in (("host", host), ("user", user)):
        (folder / name).write_bytes(_private(key))
        (folder / name).chmod(0o600)
    (folder / "authorized").write_text(f"{public_line(user)}\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    me = pwd.getpwuid(os.getuid()).pw_name
    config = folder / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder / 'host'}\n"
        f"AuthorizedKeysFile {folder / 'authorized'}\nPidFile none\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    argv = [*find_loader(tree.root).command(tree.root, "usr/sbin/sshd"), "-D", "-e", "-r", "-f", str(config)]
    if os.getuid() == 0:
        users = folder / "passwd"
        users.write_text(
            f"{Path('/etc/passwd').read_text()}sshd:x:65000:65534::/run/sshd:/usr/sbin/nologin\n"
        )
        argv = ["unshare", "--mount", "sh", "-c", _AS_ROOT, "sh", str(users), *argv]
    log = folder / "sshd.log"
    with ChildProcess(argv, log) as process:

        def listens() -> bool:
            assert process.exit_code() is None, log_tail(log)
            return "Server listening" in log_tail(log)

        Deadline(20).wait_for(listens, "The SSH server")
        yield RealSshd(
            SshAddress("127.0.0.1", port, me, folder / "user", public_line(host)), log, process.pid
        )


def _private(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
