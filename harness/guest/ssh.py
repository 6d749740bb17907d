"""Log in to a guest over SSH and run commands there, with a pinned host key and time limits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import SetupBroken, UsageError
from harness.guest.identity import SshIdentity
from harness.guest.shell import CommandResult, GuestShell, GuestUnreachable
from harness.limits import is_limit, limit_error
from harness.linux.listeners import Endpoint

_CONNECT_SECONDS = 5.0
# A guest that boots slowly answers slowly too: one that booted for 4 minutes needed over 5 s for each login.
_CONNECT_SHARE = 1 / 8
_OUTPUT_LIMIT = 4 << 20
_KEEPALIVE_SECONDS = 5
# A guest that still boots may accept connections before its users' keys are in place.
_REFUSED_SECONDS = 15.0

# paramiko logs a traceback for each failed try until the guest listens; the last error goes into our own
# error.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


def host_key(line: str) -> paramiko.PKey:
    """Parse a public host key: type and base64, as in known_hosts or a `.pub` file.

    Raises:
        UsageError: it is not a public host key.
    """
    words = line.split()
    try:
        entry = paramiko.hostkeys.HostKeyEntry.from_line(f"guest {' '.join(words[:2])}")
    except (paramiko.SSHException, paramiko.hostkeys.InvalidHostKey, ValueError) as error:
        raise UsageError(f"'{line}' is not a public SSH host key: its base64 is damaged.") from error
    if entry is None or entry.key is None or len(words) < 2:
        raise UsageError(f"'{line}' is not a public SSH host key; give one like 'ssh-ed25519 AAAA...'.")
    return entry.key


def require_private_key(path: Path) -> None:
    """Check that a file is a private SSH key without a pass phrase.

    Raises:
        UsageError: it cannot be read, is not a private key, or needs a pass phrase.
    """
    try:
        paramiko.PKey.from_path(path)
    except OSError as error:
        raise UsageError(f"The SSH key '{path}' cannot be read: {error.strerror}.") from error
    except (paramiko.PasswordRequiredException, TypeError) as error:
        raise UsageError(
            f"The SSH key '{path}' needs a pass phrase; create a key without one for tests."
        ) from error
    except (paramiko.SSHException, ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"'{path}' is not a private SSH key: {error}.") from error


def _require_no_limit(error: Exception) -> None:
    """Raise SetupBroken if it was a limit of this process that ended a step of SSH, and not the guest."""
    if isinstance(error, OSError) and is_limit(error):
        raise limit_error(error, "talking to the guest over SSH") from error


class _PinFirst(paramiko.MissingHostKeyPolicy):
    """A policy that accepts the first host key and writes it to a file, so that later logins demand it."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def missing_host_key(self, _client: paramiko.SSHClient, _hostname: str, key: paramiko.PKey) -> None:
        """Write the key to the file; paramiko calls this for a host without a known key."""
        if self._file is None:
            return
        try:
            self._file.write_text(f"{key.get_name()} {key.get_base64()}\n", encoding="ascii")
        except OSError as error:
            # Otherwise the login would fail by an OSError, as with a guest that does not answer.
            raise SetupBroken(
                f"The guest's host key cannot be written to '{self._file}': {error.strerror}."
            ) from error


def attempt_seconds(passed: float, left: float, least: float = _CONNECT_SECONDS) -> float:
    """Return how long one attempt to log in may take: longer, the longer the guest has been waited for.

    Args:
        passed: seconds since the first attempt.
        left: seconds until the last.
        least: seconds that an attempt may take at least.
    """
    return max(0.1, min(max(least, _CONNECT_SHARE * passed), left))


class SshShell(GuestShell):
    """An SSH connection to a guest. It does not survive a restore: open a new one afterwards."""

    def __init__(self, endpoint: Endpoint, identity: SshIdentity) -> None:
        """Describe a connection; `connect()` makes it.

        Args:
            endpoint: where connections to the guest's SSH server are taken, see `Machine.ssh`.
            identity: how to log in.
        """
        self._endpoint = endpoint
        self._identity = identity
        self._client: paramiko.SSHClient | None = None

    def connect(
        self,
        deadline: Deadline,
        alive: Callable[[], bool] = lambda: True,
        attempt: float = _CONNECT_SECONDS,
    ) -> None:
        """Log in; try again until the guest answers.

        QEMU's forwarded port accepts connections before the guest listens, so only a completed login counts.

        Args:
            deadline: for the login.
            alive: returns whether the guest's QEMU still runs.
            attempt: seconds that one attempt may take at least.

        Raises:
            GuestUnreachable: no login succeeded in time, or QEMU ended.
            SetupBroken: the guest has a different host key, or keeps refusing our key; or a limit of this
                machine is reached.
        """
        key = self._key()
        last: Exception | None = None
        refused: Deadline | None = None
        while not deadline.expired:
            if not alive():
                raise GuestUnreachable(
                    "The guest's QEMU ended before it answered over SSH.", code=Code.QEMU_ENDED
                )
            try:
                self._client = self._login(key, deadline, attempt)
            except paramiko.BadHostKeyException as error:
                raise SetupBroken(
                    f"The guest's SSH host key is not the expected one; does another machine answer? {error}."
                ) from error
            except paramiko.AuthenticationException as error:
                refused = refused or deadline.at_most(_REFUSED_SECONDS)
                if refused.expired:
                    raise SetupBroken(
                        f"The guest refuses the SSH key '{self._identity.private_key}' for the user "
                        f"'{self._identity.user}'."
                    ) from error
                last = error
                deadline.nap(0.5)
            except (OSError, EOFError, paramiko.SSHException) as error:
                _require_no_limit(error)
                last = error
                # A refused connection fails at once; pause, to not use up a processor.
                deadline.nap(0.1)
            else:
                return
        raise GuestUnreachable(
            f"The guest did not answer over SSH within {deadline.seconds:.0f} s (last error: {last})."
        ) from last

    def run(self, command: str, deadline: Deadline | None = None, stdin: bytes = b"") -> CommandResult:
        """Run a shell command in the guest.

        Args:
            command: command line for the guest's shell.
            deadline: for the whole command, 30 s by default.
            stdin: its standard input.

        Raises:
            GuestUnreachable: the connection broke, or the command did not end in time.
            SetupBroken: there is no connection, or a limit of this machine is reached.
        """
        deadline = deadline or Deadline(30)
        if self._client is None:
            raise SetupBroken("There is no SSH connection to the guest.")
        try:
            channel_in, channel_out, channel_err = self._client.exec_command(
                command, timeout=max(0.1, deadline.remaining())
            )
            channel_in.write(stdin)
            channel_in.channel.shutdown_write()
            output = channel_out.read(_OUTPUT_LIMIT)
            errors = channel_err.read(_OUTPUT_LIMIT)
            status_ready = channel_out.channel.status_event.wait(deadline.remaining())
        except (OSError, EOFError, paramiko.SSHException) as error:
            _require_no_limit(error)
            raise GuestUnreachable(
                f"The guest did not finish '{command}': {error or 'timed out'}.",
                code=Code.GUEST_COMMAND_UNFINISHED,
            ) from error
        if not status_ready:
            raise GuestUnreachable(
                f"The guest did not finish '{command}' in time.", code=Code.GUEST_COMMAND_UNFINISHED
            )
        code = channel_out.channel.recv_exit_status()
        return CommandResult(code, output.decode(errors="replace"), errors.decode(errors="replace"))

    def transport(self) -> paramiko.Transport:
        """Return the SSH transport of the connection, to open further channels.

        Raises:
            SetupBroken: there is no connection.
        """
        transport = self._client.get_transport() if self._client else None
        if transport is None:
            raise SetupBroken("There is no SSH connection to the guest.")
        return transport

    def close(self) -> None:
        """Close the connection; may be called at any time."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _key(self) -> paramiko.PKey:
        """Return our private key, read before any try: its OSError would look like a guest's silence."""
        try:
            return paramiko.PKey.from_path(self._identity.private_key)
        except OSError as error:
            raise SetupBroken(
                f"The SSH key '{self._identity.private_key}' cannot be read: {error.strerror}."
            ) from error

    def _login(self, key: paramiko.PKey, deadline: Deadline, least: float) -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        pinned = self._identity.pinned()
        if pinned:
            client.set_missing_host_key_policy(paramiko.RejectPolicy())
            name = f"[{self._endpoint.address}]:{self._endpoint.port}"
            known = host_key(pinned)
            client.get_host_keys().add(name, known.get_name(), known)
        else:
            client.set_missing_host_key_policy(_PinFirst(self._identity.first_seen))
        seconds = attempt_seconds(deadline.seconds - deadline.remaining(), deadline.remaining(), least)
        try:
            client.connect(
                self._endpoint.address,
                port=self._endpoint.port,
                username=self._identity.user,
                pkey=key,
                look_for_keys=False,
                allow_agent=False,
                timeout=seconds,
                banner_timeout=seconds,
                auth_timeout=seconds,
            )
        except BaseException:
            client.close()
            raise
        transport = client.get_transport()
        if transport is not None:
            transport.set_keepalive(_KEEPALIVE_SECONDS)
        return client
