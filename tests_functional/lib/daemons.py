"""Starts Debian's daemons that serve a device of QEMU by vhost-user, and ends them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from guest_images.packages.programs import packaged_program
from guest_images.provisioning import Provisioning
from harness.deadline import Deadline
from harness.errors import DeadlineExpired, SetupBroken, SnapproofError
from harness.process import ChildProcess, last_line, log_tail

_START_SECONDS = 30.0
# Linux 6.12 net/unix/af_unix.c, unix_seq_show(): the flags of a socket on which somebody listens.
_LISTENING = "00010000"


@dataclass(frozen=True)
class Daemon:
    """A program of Debian's that serves one QEMU.

    Attributes:
        package: Debian's name of its package.
        program: its file name.
        arguments: of its command line; {socket}, {disk} and {folder} stand for its QEMU's.
        private: a folder below the usual ones that has some of its libraries, "" for none.
    """

    package: str
    program: str
    arguments: tuple[str, ...]
    private: str = ""


STORAGE = Daemon(
    "qemu-utils",
    "qemu-storage-daemon",
    (
        "--blockdev=driver=file,node-name=file,filename={disk},read-only=on,cache.direct=on",
        "--blockdev=driver=raw,node-name=disk,file=file,read-only=on",
        "--export=type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={socket}",
    ),
)

FILE_SYSTEM = Daemon(
    "virtiofsd",
    "virtiofsd",
    # Its sandboxes need more than a process in a container has, and it shares a folder of ours.
    ("--sandbox=none", "--socket-path={socket}", "--shared-dir={folder}"),
)


@dataclass(frozen=True)
class Service:
    """A daemon that serves a QEMU.

    Attributes:
        process: its process, None where the QEMU needs none.
        name: the daemon's.
    """

    process: ChildProcess | None = None
    name: str = ""

    def crash(self, qemu_runs: bool) -> SetupBroken | None:
        """Return the error for a daemon that ended before its time, None for one that did not.

        Args:
            qemu_runs: whether its QEMU still runs. A daemon may end when its QEMU has, but by no signal.
        """
        if self.process is None or (code := self.process.exit_code()) is None:
            return None
        if code >= 0 and not qemu_runs:
            return None
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return SetupBroken(
            f"{self.name} {how} while QEMU used it, which says nothing about QEMU; its last words: "
            f"{_last_words(self.process)}.",
            self.process.evidence(),
        )

    def require_alive(self) -> None:
        """Check that the daemon of a QEMU that runs does so too.

        Raises:
            SetupBroken: it has ended.
        """
        if crash := self.crash(qemu_runs=True):
            raise crash

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Blame a daemon that has ended for an error within the `with`, in which its QEMU runs."""
        try:
            yield
        except SnapproofError as error:
            if crash := self.crash(qemu_runs=True):
                raise crash from error
            raise


@contextmanager
def served(
    daemon: Daemon, values: dict[str, str], log: Path, provisioning: Provisioning
) -> Iterator[Service]:
    """Run a daemon within the `with`, and yield it; it may end with the QEMU that it serves.

    Args:
        daemon: which.
        values: what stands in its arguments; `socket` is where it listens.
        log: takes what it prints.
        provisioning: the mirror, the cache, and the log of slow steps.

    Raises:
        MachineryMissing, SetupBroken: the daemon is not to be had, or does not start.
    """
    program = packaged_program(daemon.package, daemon.program, provisioning, daemon.private)
    command = [*program, *(argument.format(**values) for argument in daemon.arguments)]
    with ChildProcess(command, log) as process:
        _wait_listening(process, Path(values["socket"]), daemon.program)
        yield Service(process, daemon.program)


def _wait_listening(process: ChildProcess, socket: Path, name: str) -> None:
    try:
        Deadline(_START_SECONDS).wait_for(
            lambda: _listens(socket) or process.exit_code() is not None, f"The start of {name}"
        )
    except DeadlineExpired as error:
        raise SetupBroken(error.sentence, process.evidence()) from error
    if process.exit_code() is not None:
        words = _last_words(process)
        raise SetupBroken(f"{name} ended at its start; its last words: {words}.", process.evidence())


def _last_words(process: ChildProcess) -> str:
    return (last_line(log_tail(process.log)) or "none").rstrip(".")


def _listens(socket: Path) -> bool:
    """Return whether a process listens at a UNIX socket; a connection would take the place of QEMU's."""
    lines = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()
    return any(line.split()[3] == _LISTENING and line.endswith(f" {socket}") for line in lines[1:])
