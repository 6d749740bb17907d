"""Contract: a confined program gets no userfaultfd, and is otherwise the program that it would have been."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.codes import Code
from harness.errors import MachineryMissing, NotApplicable, SetupBroken
from harness.linux import confined
from harness.linux.confined import confining_wrapper, filtered, open_to_nobody, support_under, unprivileged
from harness.linux.seccomp import userfaultfd_filter
from harness.userfaultfd import UserfaultfdSupport

_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a program as another user")
_DEVICE = UserfaultfdSupport("/dev/userfaultfd", "", ("PAGEFAULT_FLAG_WP",))
_CALL = UserfaultfdSupport("system call", "", ("PAGEFAULT_FLAG_WP",))
_NONE = UserfaultfdSupport("", "This user may not.", ())


@pytest.mark.parametrize(
    ("error", "words"),
    [(errno.EPERM, "seccomp filter or security module"), (errno.ENOSYS, "seccomp filter hides it")],
)
def test_filter_denies_both_ways(error: int, words: str) -> None:
    """The filter denies a userfaultfd by system call and by device, and our probe gives the reason."""
    for by_device in (True, False):
        support = support_under(filtered(error), by_device=by_device)
        assert support.opened_by == ""
        assert words in support.reason


def test_filter_lets_other_calls_pass() -> None:
    """Other system calls and other ioctls of the same program go on as ever."""
    program = "import fcntl, os, termios; r, w = os.pipe(); os.write(w, b'abc')\n"
    program += "print(int.from_bytes(fcntl.ioctl(r, termios.FIONREAD, b'....'), 'little'))"
    command = [*filtered(errno.EPERM), sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "3\n"


def test_filter_is_known_for_these_machines() -> None:
    """Eight bytes an instruction; a machine whose system calls we do not know has none."""
    assert len(userfaultfd_filter(errno.EPERM, "x86_64")) == len(userfaultfd_filter(1, "aarch64")) == 56
    with pytest.raises(KeyError):
        userfaultfd_filter(errno.EPERM, "vax")


def test_wrapper_becomes_the_program(tmp_path: Path) -> None:
    """Under the process id that was started, with its arguments as they were."""
    wrapper = confining_wrapper(filtered(errno.EPERM), Path(sys.executable), tmp_path)
    argv = [str(wrapper), "-c", "import os, sys; print(os.getpid(), sys.argv[1:])", "two words", "$HOME"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        said = process.communicate(timeout=30)[0]
    assert said == f"{process.pid} ['two words', '$HOME']\n"


def test_program_that_cannot_be_confined() -> None:
    """A prefix that fails is a reason to skip, with its own words."""
    with pytest.raises(
        NotApplicable, match="cannot run a program behind 'sh -c 'echo No such user >&2; exit 1''"
    ):
        support_under(("sh", "-c", "echo No such user >&2; exit 1"))


def test_probe_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is too busy for the probe is no reason to skip, and no traceback."""
    monkeypatch.setattr(confined, "_PROBE_SECONDS", 0.2)
    with pytest.raises(SetupBroken, match="behind 'sh -c 'exec sleep 100' sleep' did not end within") as hung:
        support_under(("sh", "-c", "exec sleep 100", "sleep"))
    assert hung.value.code is Code.WAIT_EXPIRED


def test_prefix_that_is_not_installed() -> None:
    """A machine without setpriv lacks machinery."""
    with pytest.raises(MachineryMissing, match="no program 'no-such-setpriv'"):
        support_under(("no-such-setpriv", "--"))


@_ROOT
def test_other_user_reads_all_and_writes_where_it_may(tmp_path: Path) -> None:
    """It reads in private folders, and writes only into the folder opened to it and what is made there."""
    (tmp_path / "private").mkdir(0o700)
    (tmp_path / "private" / "file").write_text("seen")
    (tmp_path / "private" / "file").chmod(0o600)
    (tmp_path / "open").mkdir(0o755)
    program = (
        "import os, sys; print(os.getuid(), open(sys.argv[1]).read(), os.access(sys.argv[1], os.R_OK))\n"
        "for path in sys.argv[2:]:\n"
        "    try: open(path, 'w').close(); print('written')\n"
        "    except PermissionError: print('refused')\n"
    )
    with open_to_nobody(tmp_path / "open"):
        (tmp_path / "open" / "below").mkdir()
        paths = ["private/file", "open/a", "open/below/b", "private/c", "private/file"]
        prefix = unprivileged(opens_device=False)
        command = [*prefix, sys.executable, "-c", program, *(str(tmp_path / path) for path in paths)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    (tmp_path / "open" / "later").mkdir()
    assert done.stdout.split() == ["65534", "seen", "True", "written", "written", "refused", "refused"]
    assert (tmp_path / "open" / "later").stat().st_mode & 0o022 == 0


@_ROOT
def test_other_user_opens_what_it_may(tmp_path: Path) -> None:
    """A device that only root may open is not opened behind the prefix."""
    assert confined.opens((), Path(os.devnull))
    assert not confined.opens((), tmp_path / "none")
    if os.geteuid() == 0:
        kept = tmp_path / "kept"
        kept.touch(0o600)
        assert confined.opens((), kept)
        assert not confined.opens(unprivileged(opens_device=False), kept)


def test_other_user_dies_with_us() -> None:
    """The wish to die with the parent outlives the change of user."""
    program = "import ctypes; wish = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(wish))"
    command = [*unprivileged(opens_device=True), sys.executable, "-c", f"{program}; print(wish.value)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "9\n"


@pytest.mark.parametrize(
    ("support", "opens_device", "applies"),
    [
        (_NONE, False, True),
        (_DEVICE, True, True),
        (_DEVICE, False, False),
        (_NONE, True, False),
        (_CALL, False, False),
        (_CALL, True, False),
    ],
)
def test_without_root_we_are_that_user_or_not(
    support: UserfaultfdSupport, opens_device: bool, applies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ordinary user's QEMU runs as it is, where that user is of the kind that is asked for."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(confined, "probe_userfaultfd", lambda: support)
    if applies:
        assert unprivileged(opens_device=opens_device) == ()
        return
    with pytest.raises(NotApplicable, match=r"This user gets .* only root can run"):
        unprivileged(opens_device=opens_device)
