#!/usr/bin/env python3
# F18: a background snapshot to a file stops the guest at its end, for as long as the disk takes.
# Usage: [ACCEL=kvm] f18-closing-file-stops-guest.py QEMU [FOLDER]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Needs 1.5 GB in FOLDER (/var/tmp), on a disk with ext4 or XFS, and 2 GB of memory. Takes up to 20 s.

A guest with 512 MiB of random bytes is saved to `exec:cat`, and then to `file:`. During each save the script
asks QEMU for its status again and again. The longest answer takes as long as QEMU's main loop is blocked, and
with it the guest's timers and devices.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MIB, LOADED_MIB, HEARD_SECONDS = 1 << 20, 512, 60
SLOW_SECONDS, TIMES = 0.05, 3

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))


class Qemu:
    """A QEMU with random bytes in its guest's RAM; it ends with the `with` block."""

    def __init__(self, executable, ram):
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        self.process = subprocess.Popen(
            [
                executable,
                *("-nodefaults", "-display", "none", "-accel", os.environ.get("ACCEL", "tcg"), "-m", "1G"),
                *("-device", f"loader,file={ram},addr=0x4000000,force-raw=on"),
                *("-chardev", f"socket,fd={number},id=monitor", "-mon", "chardev=monitor,mode=control"),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=[number],
        )
        theirs.close()
        ours.settimeout(HEARD_SECONDS)
        self.file = ours.makefile("rw")
        self.file.readline()
        self.ask("qmp_capabilities")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def ask(self, command, **arguments):
        """Send a QMP command; return its result, or the description of the error."""
        print(json.dumps({"execute": command, "arguments": arguments}), file=self.file, flush=True)
        while True:
            answer = json.loads(self.file.readline())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                return answer["error"]["desc"]


def longest_answer(executable, ram, uri):
    """Save the guest; return the seconds of the longest answer, or QEMU's refusal as text."""
    with Qemu(executable, ram) as qemu:
        on = [{"capability": "background-snapshot", "state": True}]
        refusal = qemu.ask("migrate-set-capabilities", capabilities=on) or qemu.ask("migrate", uri=uri)
        if refusal:
            return refusal
        longest, end = 0.0, None
        while end is None or time.monotonic() < end:
            asked = time.monotonic()
            status = qemu.ask("query-migrate").get("status")
            longest = max(longest, time.monotonic() - asked)
            if status in ("failed", "cancelled"):
                raise RuntimeError(f"the save ended as '{status}'")
            if status == "completed" and end is None:
                end = time.monotonic() + 0.5
            time.sleep(0.002)
        return longest


qemu, folder = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "/var/tmp"
subprocess.run([qemu, "--version"], stdout=subprocess.DEVNULL, check=True)
with tempfile.TemporaryDirectory(dir=folder) as name:
    ram, saved = Path(name, "ram"), Path(name, "vmstate")
    with ram.open("wb") as file:
        for _ in range(LOADED_MIB):
            file.write(os.urandom(MIB))
    found = {}
    for kind, uri in (("exec", f"exec:cat > {saved}"), ("file", f"file:{saved}")):
        saved.unlink(missing_ok=True)
        os.sync()
        found[kind] = longest_answer(qemu, ram, uri)
    print(f"longest answer of QEMU in seconds: {found}")
if any(isinstance(answer, str) for answer in found.values()):
    sys.exit(2)
sys.exit(found["file"] > max(SLOW_SECONDS, TIMES * found["exec"]))
