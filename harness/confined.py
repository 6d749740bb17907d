"""Programs that get no userfaultfd: under a seccomp filter, or as a user without privileges."""

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

from harness.errors import NotApplicable
from harness.process import IF_PARENT_LIVES
from harness.userfaultfd import UserfaultfdSupport, probe_userfaultfd

_NOBODY = 65534
_PROBE_SECONDS = 30.0
_PROBE = (
    "import dataclasses, json; from harness.userfaultfd import probe_userfaultfd; "
    "print(json.dumps(dataclasses.asdict(probe_userfaultfd(by_device={by_device}))))"
)


def filtered(error: int) -> tuple[str, ...]:
    """A command prefix: what follows runs under a seccomp filter that fails userfaultfd with that errno."""
    return (sys.executable, "-m", "harness.seccomp", errno.errorcode[error])


def unprivileged(*, opens_device: bool) -> tuple[str, ...]:
    """A command prefix: what follows runs as a user who may not trap kernel faults by the system call.

    Files are open to it for reading, so that neither QEMU nor its guest need lie in public folders.

    Args:
        opens_device: whether /dev/userfaultfd is open to it as well, as by its file mode.

    Raises:
        NotApplicable: we are such a user ourselves and may, or may not, have the device.
    """
    if os.geteuid() == 0:
        # CAP_SYS_PTRACE is what userfaultfd(2) asks for; these two are about files only.
        files = "dac_override" if opens_device else "dac_read_search"
        kept = f"-all,+{files}"
        return (
            *("setpriv", "--reuid", str(_NOBODY), "--regid", str(_NOBODY), "--clear-groups"),
            *("--inh-caps", kept, "--ambient-caps", kept, "--bounding-set", kept),
            # Else access(2) does not look at capabilities, and QEMU finds neither firmware nor modules by it.
            *("--securebits", "+no_setuid_fixup"),
            # A new user id clears it.
            *("--pdeathsig", "KILL", "--"),
        )
    support = probe_userfaultfd()
    if (support.opened_by == "/dev/userfaultfd") is opens_device and support.opened_by != "system call":
        return ()
    how = f"gets a userfaultfd by {support.opened_by}" if support.opened_by else "gets no userfaultfd"
    raise NotApplicable(f"This user {how}, and only root can run a program as another one.")


def support_under(prefix: Sequence[str], *, by_device: bool = True) -> UserfaultfdSupport:
    """What our own probe of userfaultfd finds where it runs behind a command prefix.

    Args:
        prefix: of `filtered` or `unprivileged`.
        by_device: whether it tries /dev/userfaultfd.

    Raises:
        NotApplicable: this host cannot confine a program so.
    """
    command = [*prefix, sys.executable, "-c", _PROBE.format(by_device=by_device)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise NotApplicable(f"This host cannot run a program by '{shlex.join(prefix)}': {said}")
    answer = json.loads(done.stdout)
    return UserfaultfdSupport(answer["opened_by"], answer["reason"], tuple(answer["features"]))


def confining_wrapper(prefix: Sequence[str], qemu: Path, folder: Path) -> Path:
    """Write a script that runs `qemu` behind a command prefix, for use as `--qemu`."""
    # A new user id clears the wish to die with the parent; it may be gone before that is asked for again.
    if_we_live = f'/bin/sh -c {shlex.quote(IF_PARENT_LIVES)} sh "$PPID"'
    text = f'#!/bin/sh\nexec {shlex.join(prefix)} {if_we_live} {shlex.quote(str(qemu))} "$@"\n'
    wrapper = folder / f"qemu-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    wrapper.write_text(text)
    wrapper.chmod(0o755)
    return wrapper


@contextmanager
def open_to_nobody(folder: Path) -> Iterator[None]:
    """Let an `unprivileged` program write into a folder, and into what we make in it meanwhile."""
    if os.geteuid() != 0:
        yield
        return
    os.chown(folder, -1, _NOBODY)
    # What is made in it gets its group.
    folder.chmod(0o2775)
    before = os.umask(0o002)
    try:
        yield
    finally:
        os.umask(before)
