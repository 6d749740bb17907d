#!/usr/bin/env python3
# F40: the memory of a virtio-pmem device is in no snapshot, and no save is refused.
# Usage: [ACCEL=kvm] f40-virtio-pmem-not-saved.py QEMU [FOLDER]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Needs 100 MB in FOLDER (/var/tmp) and 100 MB of memory, and takes 5 s.

QEMU's qtest interface writes a word into the device's memory. The guest is saved by a background snapshot and
by stop-and-save, and restored from each: the word must be there, unless the save is refused.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS, WORD = 60, 0x5EED5EED

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))


class Qemu:
    """A QEMU with firmware alone; it ends with the `with` block."""

    def __init__(self, executable, folder, *extra):
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        self.process = subprocess.Popen(
            [
                executable,
                *("-nodefaults", "-display", "none", "-machine", "pc", "-m", "64M,slots=1,maxmem=1G"),
                *("-object", "memory-backend-ram,id=persistent,size=16M"),
                *("-device", "virtio-pmem-pci,memdev=persistent"),
                *("-qtest", f"unix:{folder}/qtest,server=on,wait=off", "-qtest-log", "none", *extra),
                *("-accel", os.environ.get("ACCEL", "tcg")),
                *("-chardev", f"socket,fd={number},id=monitor", "-mon", "chardev=monitor,mode=control"),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=[number],
        )
        theirs.close()
        ours.settimeout(SECONDS)
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

    def access(self, folder, command):
        """Send a command of qtest; return what is behind its OK."""
        with socket.socket(socket.AF_UNIX) as tester:
            tester.settimeout(SECONDS)
            tester.connect(f"{folder}/qtest")
            tester.sendall(f"{command}\n".encode())
            status, *rest = tester.makefile().readline().split()
        if status != "OK":
            raise RuntimeError(f"qtest answers {status} {rest} to {command}")
        return rest

    def place(self):
        """Return the guest-physical address of the device's memory."""
        tree = self.ask("human-monitor-command", **{"command-line": "info mtree -f"})
        # A view of another address space has it at 0.
        return max(int(first, 16) for first in re.findall(r"([0-9a-f]{16})-\S+ \(.*\): persistent\b", tree))

    def wait(self, command, wanted):
        """Wait until a query has a wanted status."""
        end = time.monotonic() + SECONDS
        while (status := self.ask(command).get("status")) not in wanted:
            if time.monotonic() > end or status == "failed":
                raise RuntimeError(f"{command} says {status}")
            time.sleep(0.02)


def restored_word(executable, folder, background):
    """Save and restore the guest; return the word that the restored one has, or QEMU's refusal."""
    saved = Path(folder, "saved")
    with Qemu(executable, folder) as qemu:
        at = qemu.place()
        qemu.access(folder, f"writel {at:#x} {WORD:#x}")
        on = [{"capability": "background-snapshot", "state": background}]
        refusal = qemu.ask("migrate-set-capabilities", capabilities=on)
        if not background:
            qemu.ask("stop")
        if refusal := refusal or qemu.ask("migrate", uri=f"exec:cat > {saved}"):
            return refusal
        qemu.wait("query-migrate", ("completed",))
        if int(*qemu.access(folder, f"readl {at:#x}"), 16) != WORD:
            raise RuntimeError("the word was not written")
    Path(folder, "qtest").unlink()
    with Qemu(executable, folder, "-incoming", f"exec:cat {saved}") as qemu:
        qemu.wait("query-status", ("running", "paused"))
        word = int(*qemu.access(folder, f"readl {at:#x}"), 16)
    Path(folder, "qtest").unlink()
    return word


executable, place = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "/var/tmp"
text = subprocess.run([executable, "-device", "help"], capture_output=True, text=True, check=True).stdout
if '"virtio-pmem-pci"' not in text:
    print("This QEMU has no device 'virtio-pmem-pci'.")
    sys.exit(2)
lost = {}
with tempfile.TemporaryDirectory(dir=place) as folder:
    for kind in ("stop-and-save", "background snapshot"):
        found = restored_word(executable, folder, kind == "background snapshot")
        lost[kind] = isinstance(found, int) and found != WORD
        print(f"{kind}: {WORD:#x} written, {found if isinstance(found, str) else hex(found)} restored")
sys.exit(lost["background snapshot"])
