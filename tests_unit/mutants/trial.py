"""Program: fork a process with pytest and the libraries loaded for each mutant, and run its tests there.

Arguments: a scratch folder, and the libraries to load. It reads a request as JSON from each line of standard
input, and answers each with a line on standard output. Its working folder is a copy of the tree (copied.py),
in which it replaces the mutated module while the tests run.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import selectors
import signal
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import coverage
import hypothesis
import pytest

_OURS = ("harness", "guest_images", "validators", "tests_functional", "snapproof")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
_ADDRESS_SPACE_BYTES = 16 << 30  # An index of a guest of 2 TiB takes 4 GiB of it, and no memory.
_RESIDENT_BYTES = 3 << 30
_CPU_SECONDS = 1800  # For a process that leaves its session; the parent looks at the time of each test.
_NOT_IMPORTED = 3  # Exit code of the child.


@dataclass(frozen=True)
class Request:
    """What to run.

    Attributes:
        path: the module to replace; "" for none.
        source: its source meanwhile.
        tests: for each test file in order the ids of its tests, in order, and the seconds that each takes.
        stop: whether to stop at the first failure.
        trace: a file for the lines that each test runs; "" for none.
        without: tests to leave out, by the beginning of their names.
    """

    path: str
    source: str
    tests: dict[str, dict[str, float]]
    stop: bool = True
    trace: str = ""
    without: tuple[str, ...] = ()


@dataclass
class Answer:
    """What came of it.

    Attributes:
        outcome: "survived", "killed", "timed-out" (or out of memory), or "not-imported" (by no test).
        test: the test that failed or took too long.
        seconds: what each finished test took.
        failed: all tests that failed.
    """

    outcome: str = "survived"
    test: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


class _Watch:
    """Pytest plugin: runs the given tests alone, in their order, and reports on each by a pipe."""

    def __init__(
        self, wanted: dict[str, float], without: tuple[str, ...], pipe: int, tracer: coverage.Coverage | None
    ) -> None:
        self._wanted = {test: place for place, test in enumerate(wanted)}
        self._without = tuple(without)
        self._pipe = pipe
        self._tracer = tracer

    def _tell(self, what: str, test: str) -> None:
        os.write(self._pipe, f"{what} {test}\n".encode())

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if not item.name.startswith(self._without)]
        if self._wanted:
            items[:] = sorted(
                (item for item in items if item.nodeid in self._wanted),
                key=lambda item: self._wanted[item.nodeid],
            )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._tell("begun", item.nodeid)
        if self._tracer is not None:
            self._tracer.switch_context(item.nodeid)
        try:
            return (yield)
        finally:
            if self._tracer is not None:
                self._tracer.switch_context("")
            self._tell("ended", item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._tell("failed", report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._tell("failed", report.nodeid)


def _in_child(request: Request, pipe: int, scratch: Path) -> int:
    """Run the tests of a request. Return the process's exit code: 0 passed, 1 failed, _NOT_IMPORTED."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.setsid()
    log = os.open(scratch / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, resource.RLIM_INFINITY))
    hypothesis.settings.register_profile("mutants", derandomize=True, database=None, deadline=None)
    hypothesis.settings.load_profile("mutants")
    tracer = None
    if request.trace:
        include = [f"{Path.cwd()}/{name}/*" for name in _OURS]
        tracer = coverage.Coverage(data_file=request.trace, include=include, config_file=False)
        tracer.start()
    code = 0
    for file, wanted in request.tests.items():
        arguments = [
            file,
            "-q",
            "--assert=plain",
            "-p",
            "no:cacheprovider",
            f"--basetemp={scratch / 'temporary'}",
            # Names of tests are from here on, also below a folder with a configuration of pytest.
            f"--rootdir={Path.cwd()}",
        ]
        if request.stop:
            arguments.append("-x")
        code = max(
            code, min(1, int(pytest.main(arguments, plugins=[_Watch(wanted, request.without, pipe, tracer)])))
        )
        if code and request.stop:
            return code
    if tracer is not None:
        tracer.stop()
        tracer.save()
    module = sys.modules.get(request.path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    if request.path and (module is None or module.__file__ != str(Path(request.path).resolve())):
        return _NOT_IMPORTED
    return code


def run(request: Request, scratch: Path) -> Answer:
    """Run one request, leaving the tree as it was and no process behind."""
    module = Path(request.path)
    original = module.read_bytes() if request.path else b""
    try:
        if request.path:
            module.write_text(request.source, encoding="utf-8")
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            code = 1
            try:
                code = _in_child(request, writer, scratch)
            finally:
                os._exit(code)
        os.close(writer)
        try:
            return _watched(request, child, reader)
        finally:
            os.close(reader)
    finally:
        _end_descendants()
        if request.path:
            module.write_bytes(original)


def _watched(request: Request, child: int, reader: int) -> Answer:
    """Follow what the child reports until it ends or a test takes too long."""
    usual = {test: seconds for tests in request.tests.values() for test, seconds in tests.items()}
    answer = Answer()
    test, begun, cpu, rest = "", time.monotonic(), 0.0, b""
    with selectors.DefaultSelector() as waiting, open(os.pidfd_open(child)) as handle:  # noqa: PTH123
        waiting.register(reader, selectors.EVENT_READ)
        waiting.register(handle, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in waiting.select(1.0)}
            if reader in ready:
                data = os.read(reader, 1 << 16)
                if not data:
                    waiting.unregister(reader)
                *lines, rest = (rest + data).split(b"\n")
                for what, name in (line.decode().split(" ", 1) for line in lines):
                    if what == "failed":
                        answer.failed.append(name)
                    elif what == "ended":
                        answer.seconds[name] = time.monotonic() - begun
                    if what != "failed":
                        test, begun, cpu = (
                            (name if what == "begun" else ""),
                            time.monotonic(),
                            _cpu_seconds(child),
                        )
            elif handle in ready:
                break
            elif _resident_bytes(child) > _RESIDENT_BYTES or _overdue(
                usual.get(test, 3.0), time.monotonic() - begun, _cpu_seconds(child) - cpu
            ):
                answer.outcome, answer.test = "timed-out", test
                return answer
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == _NOT_IMPORTED:
        answer.outcome = "not-imported"
    elif status:
        answer.outcome, answer.test = "killed", (answer.failed or [test or f"exit code {status}"])[0]
    return answer


def _overdue(usual: float, wall: float, cpu: float) -> bool:
    return wall > max(60.0, 20 * usual) or cpu > max(15.0, 10 * usual)


def _cpu_seconds(pid: int) -> float:
    try:
        # The name of a process is any bytes.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def _end_descendants() -> None:
    """End and reap every process below this one; an orphan has become our child, for we are its subreaper."""
    mine = Path(f"/proc/self/task/{os.getpid()}/children")
    while children := mine.read_text(encoding="utf-8").split():
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
            os.waitpid(int(child), 0)


def main() -> None:
    """Serve requests until standard input ends."""
    scratch = Path(sys.argv[1])
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for name in sys.argv[2:]:
        with suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        # A fork inherits what is imported here: a module of ours would be the one without the mutant.
        assert not {name.partition(".")[0] for name in sys.modules} & set(_OURS)
        print(json.dumps(asdict(run(Request(**request), scratch))), flush=True)


if __name__ == "__main__":
    main()
