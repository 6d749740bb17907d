"""Run programs that get no userfaultfd: under a seccomp filter, or as an unprivileged user."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.codes import Code
from harness.errors import MachineryMissing, NotApplicable, SetupBroken
from harness.process import IF_PARENT_LIVES
from harness.userfaultfd import UserfaultfdSupport, probe_userfaultfd

_NOBODY = 65534
_PROBE_SECONDS = 30.0
_PROBE = (
    "import dataclasses, json; from harness.userfaultfd import probe_userfaultfd; "
    "print(json.dumps(dataclasses.asdict(probe_userfaultfd(by_device={by_device}))))"
)


def filtered(error: int) -> tuple[str, ...]:
    """Return a command prefix that runs a program under a seccomp filter; userfaultfd fails with `error`."""
    return (sys.executable, "-m", "harness.linux.seccomp", errno.errorcode[error])


def unprivileged(*, opens_device: bool) -> tuple[str, ...]:
    """Return a command prefix that runs a program as a user for whom userfaultfd(2) fails with EPERM.

    The program may read all files, so that QEMU and its guest need not be in public folders.

    Args:
        opens_device: whether the program may open /dev/userfaultfd, as if its file mode allowed that.

    Raises:
        NotApplicable: we are not root, and our own access to the system call or the device is different.
    """
    if os.geteuid() == 0:
        # userfaultfd(2) needs CAP_SYS_PTRACE; these two capabilities are about files only.
        files = "dac_override" if opens_device else "dac_read_search"
        kept = f"-all,+{files}"
        return (
            *("setpriv", "--reuid", str(_NOBODY), "--regid", str(_NOBODY), "--clear-groups"),
            *("--inh-caps", kept, "--ambient-caps", kept, "--bounding-set", kept),
            # Without it access(2) ignores capabilities, and QEMU finds neither its firmware nor its modules.
            *("--securebits", "+no_setuid_fixup"),
            # Set again, because a change of the user id clears it.
            *("--pdeathsig", "KILL", "--"),
        )
    support = probe_userfaultfd()
    if (support.opened_by == "/dev/userfaultfd") is opens_device and support.opened_by != "system call":
        return ()
    how = f"gets a userfaultfd by {support.opened_by}" if support.opened_by else "gets no userfaultfd"
    raise NotApplicable(f"This user {how}, and only root can run a program as another user.")


def support_under(prefix: Sequence[str], *, by_device: bool = True) -> UserfaultfdSupport:
    """Run our probe of userfaultfd behind a command prefix and return its result.

    Args:
        prefix: from `filtered` or `unprivileged`.
        by_device: whether the probe tries /dev/userfaultfd.

    Raises:
        NotApplicable: this host cannot run a program behind that prefix.
        MachineryMissing: the prefix names a program that is not there.
        SetupBroken: the probe did not end in time.
    """
    command = [*prefix, sys.executable, "-c", _PROBE.format(by_device=by_device)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except FileNotFoundError as error:
        raise MachineryMissing(f"This host has no program '{command[0]}'; install it.") from error
    except subprocess.TimeoutExpired as error:
        raise SetupBroken(
            f"The probe of userfaultfd behind '{shlex.join(prefix)}' did not end within "
            f"{_PROBE_SECONDS:.0f} s. Is the host too busy?",
            code=Code.WAIT_EXPIRED,
        ) from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise NotApplicable(f"This host cannot run a program behind '{shlex.join(prefix)}': {said}")
    answer = json.loads(done.stdout)
    return UserfaultfdSupport(answer["opened_by"], answer["reason"], tuple(answer["features"]))


def opens(prefix: Sequence[str], device: Path) -> bool:
    """Return whether a program behind a command prefix can open a device for reading and writing.

    Raises:
        SetupBroken: the probe did not end in time.
    """
    command = [*prefix, sys.executable, "-c", "import os, sys; os.open(sys.argv[1], os.O_RDWR)", str(device)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise SetupBroken(
            f"The probe of '{device}' did not end within {_PROBE_SECONDS:.0f} s. Is the host too busy?",
            code=Code.WAIT_EXPIRED,
        ) from error
    return done.returncode == 0


def confining_wrapper(prefix: Sequence[str], qemu: Path, folder: Path) -> Path:
    """Write a script that runs `qemu` behind a command prefix, for use as `--qemu`."""
    # A change of the user id clears PR_SET_PDEATHSIG. The parent may die before the prefix sets it again.
    if_we_live = f'/bin/sh -c {shlex.quote(IF_PARENT_LIVES)} sh "$PPID"'
    text = f'#!/bin/sh\nexec {shlex.join(prefix)} {if_we_live} {shlex.quote(str(qemu))} "$@"\n'
    wrapper = folder / f"qemu-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    wrapper.write_text(text)
    wrapper.chmod(0o755)
    return wrapper


@contextmanager
def open_to_nobody(folder: Path) -> Iterator[None]:
    """Let an `unprivileged` program write to a folder, and to files created in it during the `with`."""
    if os.geteuid() != 0:
        yield
        return
    os.chown(folder, -1, _NOBODY)
    # Set-group-ID: files created in the folder get its group.
    folder.chmod(0o2775)
    before = os.umask(0o002)
    try:
        yield
    finally:
        os.umask(before)
