"""Contract: the preloaded library fails exactly the calls that were asked for, and counts what it sees."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest_images.cache import Cache
from guest_images.provisioning import Provisioning
from tests_functional.failures.cases import call_cases
from validators.faults.calls.control import (
    ERRORS,
    Call,
    CallControl,
    CallFault,
    Denial,
    call_control,
    controlled_qemu,
)

# Two userfaultfds by system call, as QEMU makes them; prints the errno of each, 0 for success.
_PROGRAM = """
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 323, "aarch64": 282}[platform.machine()]
for _ in range(2):
    ctypes.set_errno(0)
    made = libc.syscall(ctypes.c_long(number), ctypes.c_long(1))
    print(ctypes.get_errno() if made < 0 else 0)
"""

# Asks a userfaultfd of either kind what it can do, then for write protection; prints errno or features & 1.
_ASKING = """
import ctypes, os, platform, struct
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 323, "aarch64": 282}[platform.machine()]
for features in (0, 1):
    made = libc.syscall(ctypes.c_long(number), ctypes.c_long(1))
    api = ctypes.create_string_buffer(struct.pack("=QQQ", 0xAA, features, 0))
    done = libc.ioctl(made, ctypes.c_ulong(0xC018AA3F), api)
    print(ctypes.get_errno() if made < 0 or done < 0 else struct.unpack("=QQQ", api.raw[:24])[1] & 1)
"""
_OPENING = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for name in (libc.open, libc.open64):
    print(ctypes.get_errno() if name(b"/dev/userfaultfd", os.O_RDWR) < 0 else 0)
    print(ctypes.get_errno() if name(b"/dev/null", os.O_RDWR) < 0 else 0)
"""


@pytest.fixture(name="control")
def _control(tmp_path: Path) -> Iterator[CallControl]:
    with call_control(tmp_path / "calls") as control:
        yield control


def _errors(folder: Path, cache: Path, program: str = _PROGRAM) -> list[int]:
    """Return the errors with which the program's calls end under the library."""
    wrapper = controlled_qemu(
        Path(sys.executable), folder / "calls", Provisioning(Cache(cache), lambda _: None)
    )
    done = subprocess.run([wrapper, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return [int(line) for line in done.stdout.split()]


def test_only_the_armed_call_fails(
    tmp_path: Path, control: CallControl, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The second of two calls fails with the errno asked for; the first is the kernel's own business."""
    cache = tmp_path_factory.getbasetemp()
    plain = _errors(tmp_path, cache)
    assert control.loaded
    assert not control.acted
    assert control.counts()[Call.CREATE] == 2
    with control.armed(CallFault(Call.CREATE, 2, errno.EOWNERDEAD)):
        assert _errors(tmp_path, cache) == [plain[0], errno.EOWNERDEAD]
        assert control.acted
    assert control.counts()[Call.CREATE] == 2


def test_denied_calls_fail_every_time(
    tmp_path: Path, control: CallControl, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each call of a denied kind, and the device by either name of open(); other files are not concerned."""
    cache = tmp_path_factory.getbasetemp()
    plain = _errors(tmp_path, cache)
    with control.denied(Denial({Call.CREATE: errno.ENOSYS, Call.OPEN_DEVICE: errno.ENOENT})):
        assert _errors(tmp_path, cache) == [errno.ENOSYS, errno.ENOSYS]
        assert control.acted
        assert _errors(tmp_path, cache, _OPENING) == [errno.ENOENT, 0, errno.ENOENT, 0]
    assert _errors(tmp_path, cache) == plain


def test_hidden_feature(
    tmp_path: Path, control: CallControl, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Unlisted for who asks what there is, EINVAL for who asks for it."""
    cache = tmp_path_factory.getbasetemp()
    plain = _errors(tmp_path, cache, _ASKING)
    if plain != [1, 1]:
        pytest.skip("this user gets no userfaultfd with write protection by the system call")
    with control.denied(Denial(hidden=1)):
        assert _errors(tmp_path, cache, _ASKING) == [0, errno.EINVAL]
        assert control.acted
    assert _errors(tmp_path, cache, _ASKING) == plain


def test_call_that_is_not_made_is_told(
    tmp_path: Path, control: CallControl, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A fault that waits for a third call has not acted, so nobody can take the run for one under it."""
    with control.armed(CallFault(Call.CREATE, 3, errno.ENOMEM)):
        _errors(tmp_path, tmp_path_factory.getbasetemp())
        assert not control.acted


def test_library_that_is_not_loaded_is_told(control: CallControl) -> None:
    """A page that no process has mapped says so."""
    assert not control.loaded


def test_cases_are_those_calls_that_are_made() -> None:
    """First, second, middle and last of each call, with each errno; none of what is never called."""
    cases = call_cases({Call.PROTECT: 9, Call.READ: 1, Call.UNPROTECT: 1, Call.WAKE: 0})
    numbers = [case.call.number for case in cases if case.call and case.call.call is Call.PROTECT]
    assert sorted(set(numbers)) == [1, 2, 4, 9]
    assert len(numbers) == 4 * len(ERRORS[Call.PROTECT])
    assert len(cases) == len(numbers) + len(ERRORS[Call.READ]) + len(ERRORS[Call.UNPROTECT])
    assert len({case.name for case in cases}) == len(cases)
    assert cases[0].name == "call-protect-1-einval"


def test_last_read_is_one_that_each_save_makes() -> None:
    """A save reads once for each page that it releases; how often beyond that differs from save to save."""
    cases = call_cases({Call.UNPROTECT: 100, Call.READ: 107})
    numbers = {case.call.number for case in cases if case.call and case.call.call is Call.READ}
    assert sorted(numbers) == [1, 2, 50, 100]
    assert any(case.reason == "call 100 of 107 to read fails with EINTR" for case in cases)
