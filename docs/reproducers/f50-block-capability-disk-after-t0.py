#!/usr/bin/env python3
# F50: a background snapshot with the capability `block` has the disk of after T0.
# Usage: [ACCEL=kvm] f50-block-capability-disk-after-t0.py QEMU [FOLDER]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Needs 300 MB in FOLDER (/var/tmp), and takes half a minute.

A guest without a system has a disk of zeros. One MiB of marks is written to the disk, by QEMU itself: not at
all, before the save, and once QEMU has resumed the guest after T0. The file may have them in the second
case alone.
As a control they are written during an ordinary migration too, whose state is that of its end, so it has
them.
"""

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS = 30
MIB = 1 << 20
DISK_MIB = 64
MARKS = b"\x55" * 4096
TIMES = ("never", "before T0", "during an ordinary migration", "after T0")

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))


class Qemu:
    """A QEMU with an empty guest that has a disk; it ends with the `with` block."""

    def __init__(self, executable, disk):
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        self.process = subprocess.Popen(
            [
                executable,
                *("-machine", "pc", "-nodefaults", "-display", "none", "-m", "64"),
                *("-accel", os.environ.get("ACCEL", "tcg")),
                *("-bios", str(disk.with_name("bios"))),
                *("-drive", f"file={disk},format=raw,if=none,id=disk"),
                # A disk without a device is opened anew for each write, under QEMU's hands.
                *("-device", "ide-hd,drive=disk"),
                *("-chardev", f"socket,fd={number},id=monitor", "-mon", "chardev=monitor,mode=control"),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=[number],
        )
        theirs.close()
        ours.settimeout(SECONDS)
        self.file = ours.makefile("rw")
        self.events = []
        self.file.readline()
        self.ask("qmp_capabilities")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def ask(self, command, **arguments):
        """Give a command; return its result, or its refusal as text; keep the events before it."""
        print(json.dumps({"execute": command, "arguments": arguments}), file=self.file, flush=True)
        while line := self.file.readline():
            answer = json.loads(line)
            if "event" in answer:
                self.events.append(answer["event"])
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                return answer["error"]["desc"]
        raise RuntimeError(f"QEMU has ended: {self.process.wait()}")

    def write_marks(self):
        """Write the marks near the end of the disk."""
        line = f'qemu-io disk "write -P 0x55 {DISK_MIB - 2}M 1M"'
        print(self.ask("human-monitor-command", **{"command-line": line}) or "   (written)")

    def wait(self, what, holds):
        """Ask `query-migrate` until a condition holds; return the answer."""
        limit = time.monotonic() + SECONDS
        while not holds(answer := self.ask("query-migrate")):
            if time.monotonic() > limit:
                raise RuntimeError(f"{what} did not come: {answer}, {self.events}")
            time.sleep(0.02)
        return answer


def marks_in_file(executable, folder, when):
    """Save, write the marks before or after T0 or not at all; return how many the file has."""
    background = when != "during an ordinary migration"
    disk, path = Path(folder, "disk"), Path(folder, "file")
    disk.write_bytes(bytes(DISK_MIB * MIB))
    # A guest that only loops: a write by one of its devices would hang QEMU (F12).
    Path(folder, "bios").write_bytes(b"\xeb\xfe".rjust(65536 - 14, b"\0").ljust(65536, b"\0"))
    with Qemu(executable, disk) as qemu:
        time.sleep(2)
        on = [{"capability": name, "state": True} for name in ("block", "background-snapshot")]
        on = on if background else on[:1]
        refusal = qemu.ask("migrate-set-capabilities", capabilities=on)
        if refusal:
            print(f"QEMU refuses: {refusal}")
            sys.exit(2)
        if when == "before T0":
            qemu.write_marks()
        refusal = qemu.ask("migrate", uri=f"exec:sleep 3; cat > {shlex.quote(str(path))}")
        if refusal:
            print(f"QEMU refuses: {refusal}")
            sys.exit(2)
        if background:
            qemu.wait("RESUME", lambda _: "RESUME" in qemu.events)
        else:
            qemu.wait("the save", lambda answer: answer.get("status") == "active")
        if when in ("after T0", "during an ordinary migration"):
            qemu.write_marks()
        status = qemu.wait("the end", lambda answer: answer["status"] in ("completed", "failed"))["status"]
        if status != "completed":
            raise RuntimeError(f"the save is {status}")
    return path.read_bytes().count(MARKS)


executable, folder = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "/var/tmp"
with tempfile.TemporaryDirectory(dir=folder) as name:
    found = {when: marks_in_file(executable, name, when) for when in TIMES}
for when, marks in found.items():
    print(f"Marks written {when}: the file has {marks} of {MIB // len(MARKS)}.")
if found["never"] or not found["before T0"] or not found["during an ordinary migration"]:
    raise RuntimeError("The controls are wrong.")
sys.exit(1 if found["after T0"] else 0)
