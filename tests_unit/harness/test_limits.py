"""A limit of the machine is told from a fault: by an error, by the end of a process, by getrlimit(2)."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.codes import Code
from harness.errors import SetupBroken
from harness.limits import (
    is_limit,
    limit_behind,
    limit_error,
    limit_in,
    require_import_memory,
    short_limits,
)


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (-signal.SIGKILL, "SIGKILL"),
        (137, "SIGKILL"),
        (-signal.SIGXFSZ, "ulimit -f"),
        (-signal.SIGXCPU, "ulimit -t"),
        (-signal.SIGSEGV, ""),
        (-signal.SIGBUS, ""),
        (-signal.SIGABRT, ""),
        (1, ""),
        (0, ""),
        (9, ""),
        (None, ""),
    ],
)
def test_a_process_that_a_limit_ended(code: int | None, word: str) -> None:
    """Only signals that the kernel sends for a limit count; a crash is the program's own."""
    assert word in limit_behind(code)
    assert bool(limit_behind(code)) == bool(word)


def test_an_error_with_a_limit_behind_it() -> None:
    """Directly, or as the cause of another; a lost connection is none."""
    wrapped = RuntimeError("x")
    wrapped.__cause__ = OSError(errno.ENOMEM, "x")
    assert is_limit(OSError(errno.EMFILE, "x"))
    assert is_limit(MemoryError())
    assert is_limit(wrapped)
    assert is_limit(ConnectionResetError(errno.ECONNRESET, "x")) is False
    assert is_limit(TimeoutError()) is False


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "while it runs: Too many open files."),
        (MemoryError(), "while it runs: Cannot allocate memory."),
    ],
)
def test_limit_of_our_own_process(error: OSError | MemoryError, words: str) -> None:
    """The error says which, and in which step."""
    found = limit_error(error, "it runs")
    assert words in found.sentence
    assert found.code is Code.SETUP_LIMIT


@contextmanager
def _limited(which: int, field: str, more_bytes: int) -> Iterator[None]:
    """Let this process have so much more of what a field of /proc/self/status counts."""
    now = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    soft, hard = resource.getrlimit(which)
    resource.setrlimit(which, ((int(now.split()[1]) << 10) + more_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(which, (soft, hard))


@pytest.mark.parametrize(
    ("which", "field"), [(resource.RLIMIT_AS, "VmSize:"), (resource.RLIMIT_DATA, "VmData:")]
)
def test_memory_for_an_import(which: int, field: str) -> None:
    """The import of numpy takes 123 MiB of address space, which is data; twice as much is enough."""
    with _limited(which, field, 256 << 20):
        require_import_memory()
    with _limited(which, field, 96 << 20), pytest.raises(SetupBroken, match="while starting") as caught:
        require_import_memory()
    assert caught.value.code is Code.SETUP_LIMIT


def test_memory_for_an_import_is_of_no_file(tmp_path: Path) -> None:
    """Standard input may be a file."""
    before = os.dup(0)
    with (tmp_path / "input").open("w+b") as file:
        os.dup2(file.fileno(), 0)
    try:
        require_import_memory()
    finally:
        os.dup2(before, 0)
        os.close(before)


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("4", "4")])
def test_openblas_has_one_thread(monkeypatch: pytest.MonkeyPatch, before: str | None, after: str) -> None:
    """Each thread takes more address space; the user's own number is kept."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "")
    if before is None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    else:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", before)
    require_import_memory()
    assert os.environ["OPENBLAS_NUM_THREADS"] == after


def test_last_words() -> None:
    """A limit is found in the last line only."""
    assert limit_in("a\nqemu: cannot set up guest memory 'pc.ram': Cannot allocate memory\n")
    assert not limit_in("Cannot allocate memory\nqemu: no such machine")
    assert not limit_in("")


@pytest.mark.parametrize(
    ("which", "value", "word"),
    [
        (resource.RLIMIT_FSIZE, 20 << 20, "'ulimit -f' limits the size of a file to 20 MiB and 537 MiB"),
        (resource.RLIMIT_AS, 900 << 20, "'ulimit -v'"),
        (resource.RLIMIT_NOFILE, 255, "'ulimit -n' limits open files to 255 and 256 are needed"),
    ],
)
def test_limits_that_are_too_low(monkeypatch: pytest.MonkeyPatch, which: int, value: int, word: str) -> None:
    """Each is named with the command that raises it; without limits there is nothing to say."""
    none = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _asked: none)
    assert short_limits(537, 1024) == []
    # The soft limit counts, although it could be raised.
    limited = (value, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda asked: limited if asked == which else none)
    assert [word in sentence for sentence in short_limits(537, 1024)] == [True]


def test_limits_that_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that is exactly what is needed is no trouble."""
    enough = {
        resource.RLIMIT_FSIZE: 537 << 20,
        resource.RLIMIT_AS: 1 << 30,
        resource.RLIMIT_DATA: 1 << 30,
        resource.RLIMIT_NOFILE: 256,
    }
    monkeypatch.setattr(resource, "getrlimit", lambda asked: (enough[asked], resource.RLIM_INFINITY))
    assert short_limits(537, 1024) == []
