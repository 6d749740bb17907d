"""Serves a disk to QEMUs by vhost-user-blk, with Debian's qemu-storage-daemon."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from guest_images.packages.programs import packaged_program
from guest_images.provisioning import Provisioning
from harness.deadline import Deadline
from harness.errors import DeadlineExpired, SetupBroken
from harness.process import ChildProcess
from harness.qemu.configuration import qemu_quoted

_PACKAGE, _PROGRAM = "qemu-utils", "qemu-storage-daemon"
_START_SECONDS = 30.0


@contextmanager
def served_disk(
    image: Path, sockets: Sequence[Path], log: Path, provisioning: Provisioning
) -> Iterator[None]:
    """Serve an image, which is not written to, at UNIX sockets within the `with`; each takes one QEMU.

    Raises:
        MachineryMissing, SetupBroken: the daemon is not to be had, or does not start.
    """
    command = [
        *packaged_program(_PACKAGE, _PROGRAM, provisioning),
        *(
            "--blockdev",
            f"driver=file,node-name=file,filename={qemu_quoted(image)},read-only=on,cache.direct=on",
        ),
        *("--blockdev", "driver=raw,node-name=disk,file=file,read-only=on"),
    ]
    for number, path in enumerate(sockets):
        address = f"addr.type=unix,addr.path={qemu_quoted(path)}"
        command += ["--export", f"type=vhost-user-blk,id=export{number},node-name=disk,{address}"]
    with ChildProcess(command, log) as daemon:
        try:
            Deadline(_START_SECONDS).wait_for(
                lambda: all(path.exists() for path in sockets) or daemon.exit_code() is not None,
                "The start of qemu-storage-daemon",
            )
        except DeadlineExpired as error:
            raise SetupBroken(error.sentence, daemon.evidence()) from error
        if daemon.exit_code() is not None:
            raise SetupBroken("qemu-storage-daemon ended at its start.", daemon.evidence())
        yield
