"""A host: run programs and keep files in a private folder there, none of which outlives the connection."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from harness.deadline import Deadline
from harness.errors import DeadlineExpired, Evidence, MachineryMissing, SetupBroken
from harness.hosts import supervisor
from harness.hosts.link import Link, Stream, source_of
from harness.hosts.local import HostFacts
from harness.hosts.streams import collect, feed, first_line, packed
from harness.linux.run_queue import ProcessorTime

PREFIX = "snapproof-"
"""Prefix of the name of our folder on a host."""

_MIN_PYTHON = (3, 9)
_TOO_OLD = 96
_NO_PROGRAM = 127
# Beside other VMs an emulated one was seen to need more than a minute.
_START_SECONDS = 180.0
_END_SECONDS = 40.0
_TAIL = 2000
# Read once, at import, so that all programs of a run get the same supervisor even if its file changes.
_SUPERVISOR = source_of(supervisor.__file__).encode()
# The supervisor's source is sent over standard input, so that no file of it is written on the host.
_BOOT = (
    "import sys;"
    f"sys.version_info<{_MIN_PYTHON} and sys.exit({_TOO_OLD});"
    "exec(compile(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())),'supervisor','exec'))"
)
_FACTS = """\
import json, os, platform
def read(path):
    try:
        return open(path).read()
    except OSError:
        return ""
memory = [line.split()[1] for line in read("/proc/meminfo").splitlines() if line.startswith("MemAvailable:")]
tainted = read("/proc/sys/kernel/tainted").strip()
uname = platform.uname()
print(json.dumps({
    "kernel": uname.release + " " + uname.version,
    "architecture": uname.machine,
    "cpus": len(os.sched_getaffinity(0)),
    "memory_mib": int(memory[0]) // 1024 if memory else 0,
    "tainted": int(tainted) if tainted else None,
}))
"""
_UNPACK = """\
import json, os, sys
source = sys.stdin.buffer
for path, length, mode in json.loads(source.readline()):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "wb") as file:
        os.fchmod(file.fileno(), mode)
        while length:
            data = source.read(min(length, 1 << 20))
            if not data:
                sys.exit("The input ended within " + path + ".")
            file.write(data)
            length -= len(data)
"""


@dataclass(frozen=True)
class Finished:
    """The result of a program on a host.

    Attributes:
        exit_code: 128 + the signal's number if a signal ended it.
        stdout: its standard output.
        stderr: its standard error.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def last_words(self) -> str:
        """The last line of its standard error, empty if there is none."""
        lines = self.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


class Host:
    """A host with a private folder on it, which exists during the `with`.

    Every program runs under a supervisor (harness/hosts/supervisor.py): when the connection or this process
    ends, the program and all its descendants are killed, and the folder is removed.

    Attributes:
        name: its name in results.
        python: the Python on it.
        processor_time: what the host itself got of this machine's processors; zeros unless it is a VM here.
    """

    def __init__(self, name: str, link: Link, python: str = "python3") -> None:
        """Describe a host.

        Args:
            name: its name in results.
            link: how to reach it; closed when the `with` ends.
            python: the Python on the host, 3.9 or newer.
        """
        self.name = name
        self.python = python
        self.processor_time: Callable[[], ProcessorTime] = lambda: ProcessorTime(0, 0)
        self._link = link
        self._keeper: Stream | None = None
        self._folder = ""

    @property
    def folder(self) -> PurePosixPath:
        """Our folder on the host, the working directory of programs."""
        return PurePosixPath(self._folder)

    def __enter__(self) -> Self:
        try:
            self._keeper = self._start({"prefix": PREFIX})
            line = first_line(self._keeper, Deadline(_START_SECONDS))
            if not line:
                raise self._start_failure(self._keeper)
            self._folder = str(json.loads(line)["folder"])
        except BaseException:
            self._link.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder, check that it and all our processes are gone, and close the link.

        A second call does nothing.

        Raises:
            SetupBroken: something of ours may be left on the host.
        """
        keeper, self._keeper = self._keeper, None
        try:
            if keeper is not None:
                keeper.close_input()
                if keeper.wait(_END_SECONDS) != 0:
                    raise SetupBroken(
                        f"The folder '{self._folder}' or programs started in it may be left on the host "
                        f"'{self.name}': its supervisor did not confirm their end. Remove them by hand."
                    )
                keeper.close()
        finally:
            self._link.close()

    def facts(self) -> HostFacts:
        """Read kernel, processors, memory and taint."""
        return HostFacts(
            **json.loads(self.check([self.python, "-c", _FACTS], Deadline(_START_SECONDS)).stdout)
        )

    def run(
        self,
        argv: Iterable[str],
        deadline: Deadline,
        *,
        stdin: bytes | Iterable[bytes] = b"",
        environment: Mapping[str, str] | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Finished:
        """Run a program in our folder and wait for its end.

        Args:
            argv: program and arguments.
            deadline: the program is killed at this time.
            stdin: its standard input.
            environment: variables to add to the host's environment.
            on_output: called with each piece of standard output as it comes; the result's is then empty.

        Raises:
            DeadlineExpired: it did not end in time.
            SetupBroken: the connection broke, or a process that the program started could not be ended.
        """
        words = list(argv)
        order = {
            "argv": words,
            "folder": self._folder,
            "environment": dict(environment or {}),
            "seconds": deadline.remaining() + 1.0,
        }
        stream = self._start(order)
        output, errors = io.BytesIO(), io.BytesIO()
        chunks = [stdin] if isinstance(stdin, bytes) else stdin
        with contextlib.closing(stream):
            feeder = threading.Thread(target=feed, args=(stream, chunks), daemon=True)
            feeder.start()
            in_time = collect(stream, on_output or output.write, errors.write, deadline)
            code = stream.wait(_END_SECONDS) if in_time else None
        tail = errors.getvalue().decode(errors="replace")[-_TAIL:]
        if not in_time:
            raise DeadlineExpired(
                f"'{words[0]}' did not end on the host '{self.name}' within {deadline.seconds:.0f} s.",
                Evidence(words, log_tail=tail),
            )
        if code is None or code < 0 or code == supervisor.BROKEN:
            raise SetupBroken(
                f"The connection to the host '{self.name}' broke while '{words[0]}' ran there, or a process "
                "that it started could not be ended.",
                Evidence(words, code, tail),
            )
        return Finished(code, output.getvalue(), errors.getvalue())

    def check(self, argv: Iterable[str], deadline: Deadline, *, stdin: bytes = b"") -> Finished:
        """Run a program that must succeed.

        Raises:
            SetupBroken: it exited non-zero; also as for `run`.
            DeadlineExpired: as for `run`.
        """
        words = list(argv)
        done = self.run(words, deadline, stdin=stdin)
        if done.exit_code:
            raise SetupBroken(
                f"'{words[0]}' failed on the host '{self.name}' with exit code {done.exit_code}: "
                f"{done.last_words or 'it wrote no message.'}",
                Evidence(words, done.exit_code, done.stderr.decode(errors="replace")[-_TAIL:]),
            )
        return done

    def put(self, files: Mapping[str, bytes | Path], deadline: Deadline) -> None:
        """Copy files to our folder.

        Args:
            files: content, or path of a local file, by path in our folder.
            deadline: for the whole copy.

        Raises:
            SetupBroken: they could not be written, e.g. because the disk is full; also as for `run`.
            DeadlineExpired: as for `run`.
        """
        argv = [self.python, "-c", _UNPACK]
        done = self.run(argv, deadline, stdin=packed(files))
        if done.exit_code:
            raise SetupBroken(
                f"Files could not be copied to the host '{self.name}': {done.last_words}", Evidence(argv)
            )

    def get(self, path: str, target: Path, deadline: Deadline) -> None:
        """Copy a file of our folder, by its path in it, to the local path `target`.

        Raises:
            SetupBroken: there is no such file; also as for `run`.
            DeadlineExpired: as for `run`.
        """
        with target.open("wb") as file:
            done = self.run(["cat", path], deadline, on_output=file.write)  # type: ignore[arg-type]
        if done.exit_code:
            raise SetupBroken(
                f"The file '{path}' could not be copied from the host '{self.name}': {done.last_words}"
            )

    def dial(self, port: int) -> Any:
        """Connect to a TCP port of the host's loopback address; return a socket or an SSH channel.

        Raises:
            OSError: nothing listens on that port.
        """
        return self._link.dial(port)

    def _start(self, order: Mapping[str, Any]) -> Stream:
        stream = self._link.start([self.python, "-c", _BOOT])
        try:
            stream.write(b"%d\n%s%s\n" % (len(_SUPERVISOR), _SUPERVISOR, json.dumps(order).encode()))
        except OSError:
            raise self._start_failure(stream) from None
        return stream

    def _start_failure(self, stream: Stream) -> MachineryMissing | SetupBroken:
        code = stream.wait(_START_SECONDS)
        said = stream.read_errors().decode(errors="replace").strip()[-_TAIL:]
        stream.close()
        if code in (_TOO_OLD, _NO_PROGRAM):
            version = ".".join(map(str, _MIN_PYTHON))
            return MachineryMissing(
                f"The host '{self.name}' has no '{self.python}' of version {version} or newer; install it, "
                "nothing else is needed there."
            )
        return SetupBroken(f"Programs cannot be started on the host '{self.name}' (exit code {code}): {said}")
