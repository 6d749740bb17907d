"""A host as scenarios see it: facts, files in a private folder, programs that end with the connection."""

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
from harness.host import HostFacts
from harness.hosts import leash
from harness.hosts.link import Link, Stream, source_of
from harness.hosts.streams import archive, collect, feed, first_line

PREFIX = "snapproof-"
"""What the name of our folder on a host begins with."""

_MIN_PYTHON = (3, 9)
_TOO_OLD = 96
_NO_PROGRAM = 127
_START_SECONDS = 60.0
_END_SECONDS = 40.0
_TAIL = 2000
# As it was when we were started, whatever becomes of the file meanwhile.
_LEASH = source_of(leash.__file__).encode()
# It comes by standard input, so that nothing of it is ever in a file on the host.
_BOOT = (
    "import sys;"
    f"sys.version_info<{_MIN_PYTHON} and sys.exit({_TOO_OLD});"
    "exec(compile(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())),'leash','exec'))"
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
import sys, tarfile
with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
    for member in tar:
        tar.extract(member)
"""


@dataclass(frozen=True)
class Finished:
    """What a program on a host gave: its exit code (128 + signal where one ended it) and its output."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def last_words(self) -> str:
        """The last line of what it wrote to standard error."""
        lines = self.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


class Host:
    """A host for the length of a `with`: a private folder there, which is gone afterwards.

    Every program runs on a leash (harness/hosts/leash.py): when the connection or we ourselves end, it and
    all that it started are killed, and the folder is removed.
    """

    def __init__(self, name: str, link: Link, python: str = "python3") -> None:
        """Describe a host.

        Args:
            name: as results name it.
            link: the way to it, closed on leaving.
            python: the Python to use there, 3.9 or newer.
        """
        self.name = name
        self.python = python
        self._link = link
        self._keeper: Stream | None = None
        self._folder = ""

    @property
    def folder(self) -> PurePosixPath:
        """Our folder on the host, in which programs start."""
        return PurePosixPath(self._folder)

    def __enter__(self) -> Self:
        try:
            self._keeper = self._start({"prefix": PREFIX})
            line = first_line(self._keeper, Deadline(_START_SECONDS))
            if not line:
                raise self._without_leash(self._keeper)
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
        """Remove the folder, prove that it and all processes are gone, and leave; safe to call twice.

        Raises:
            SetupBroken: something of ours is left on the host, or its end cannot be seen.
        """
        keeper, self._keeper = self._keeper, None
        try:
            if keeper is not None:
                keeper.cut()
                if keeper.wait(_END_SECONDS) != 0:
                    raise SetupBroken(
                        f"It is not sure that the folder '{self._folder}' and the programs in it are gone "
                        f"from the host '{self.name}'; look there."
                    )
                keeper.close()
        finally:
            self._link.close()

    def facts(self) -> HostFacts:
        """Kernel, processors, memory and taint, read now."""
        return HostFacts(**json.loads(self.check([self.python, "-c", _FACTS], Deadline(30)).stdout))

    def run(
        self,
        argv: Iterable[str],
        deadline: Deadline,
        *,
        stdin: bytes | Iterable[bytes] = b"",
        environment: Mapping[str, str] | None = None,
        told: Callable[[bytes], None] | None = None,
    ) -> Finished:
        """Run a program in our folder and wait for its end.

        Args:
            argv: program and arguments.
            deadline: by which it must have ended; it is killed then.
            stdin: its standard input.
            environment: variables beside those that it finds there.
            told: gets standard output as it comes, instead of the result.

        Raises:
            DeadlineExpired: it did not end in time.
            SetupBroken: the connection broke, or something that it started could not be ended.
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
            in_time = collect(stream, told or output.write, errors.write, deadline)
            code = stream.wait(_END_SECONDS) if in_time else None
        tail = errors.getvalue().decode(errors="replace")[-_TAIL:]
        if not in_time:
            raise DeadlineExpired(
                f"'{words[0]}' did not end on the host '{self.name}' within {deadline.seconds:.0f} s.",
                Evidence(words, log_tail=tail),
            )
        if code is None or code < 0 or code == leash.BROKEN:
            raise SetupBroken(
                f"The connection to the host '{self.name}' broke while '{words[0]}' ran there.",
                Evidence(words, code, tail),
            )
        return Finished(code, output.getvalue(), errors.getvalue())

    def check(self, argv: Iterable[str], deadline: Deadline, *, stdin: bytes = b"") -> Finished:
        """Run a program that must succeed.

        Raises:
            SetupBroken: it exited non-zero. Others as `run`.
        """
        words = list(argv)
        done = self.run(words, deadline, stdin=stdin)
        if done.exit_code:
            raise SetupBroken(
                f"On the host '{self.name}' '{words[0]}' failed with exit code {done.exit_code}: "
                f"{done.last_words}",
                Evidence(words, done.exit_code, done.stderr.decode(errors="replace")[-_TAIL:]),
            )
        return done

    def put(self, files: Mapping[str, bytes | Path], deadline: Deadline) -> None:
        """Carry files into our folder; the keys are their paths there.

        Raises:
            SetupBroken: they could not be written, say because the disk is full. Others as `run`.
        """
        argv = [self.python, "-c", _UNPACK]
        done = self.run(argv, deadline, stdin=archive(files))
        if done.exit_code:
            raise SetupBroken(
                f"Files could not be carried to the host '{self.name}': {done.last_words}", Evidence(argv)
            )

    def get(self, path: str, target: Path, deadline: Deadline) -> None:
        """Bring a file, by its path in our folder, to `target`.

        Raises:
            SetupBroken: there is no such file. Others as `run`.
        """
        with target.open("wb") as file:
            done = self.run(["cat", path], deadline, told=file.write)  # type: ignore[arg-type]
        if done.exit_code:
            raise SetupBroken(f"'{path}' could not be brought from the host '{self.name}': {done.last_words}")

    def dial(self, port: int) -> Any:
        """Connect to a TCP port of the host's loopback address; what comes back is like a socket.

        Raises:
            OSError: nothing listens there.
        """
        return self._link.dial(port)

    def _start(self, order: Mapping[str, Any]) -> Stream:
        stream = self._link.start([self.python, "-c", _BOOT])
        try:
            stream.write(b"%d\n%s%s\n" % (len(_LEASH), _LEASH, json.dumps(order).encode()))
        except OSError:
            raise self._without_leash(stream) from None
        return stream

    def _without_leash(self, stream: Stream) -> MachineryMissing | SetupBroken:
        code = stream.wait(_START_SECONDS)
        said = stream.read_errors().decode(errors="replace").strip()[-_TAIL:]
        stream.close()
        if code in (_TOO_OLD, _NO_PROGRAM):
            version = ".".join(map(str, _MIN_PYTHON))
            return MachineryMissing(
                f"The host '{self.name}' has no '{self.python}' of version {version} or newer, which is all "
                "that has to be there."
            )
        return SetupBroken(f"No program can be run on the host '{self.name}' (exit code {code}): {said}")
