"""A limit of the machine is told from a fault: by an error, by the end of a process, by getrlimit(2)."""

from __future__ import annotations

import errno
import resource
import signal

import pytest

from harness.limits import is_limit, limit_behind, limit_in, short_limits


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
    assert not is_limit(ConnectionResetError(errno.ECONNRESET, "x"))
    assert not is_limit(TimeoutError())


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
