#!/usr/bin/env python3
# F35: under KVM, a guest that is restored paused and saved again has lost its clock: kvmclock goes back.
# Usage: f35-paused-restore-loses-kvmclock.py QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Takes about a quarter of a minute, and needs KVM.

A guest without a system runs for some seconds and is saved by an ordinary migration. It is restored with
`-S` and saved again at once: its clock must be the one that was saved. The control is a guest that is
restored the same way, continued and stopped again before it is saved.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS = 30
RUN_SECONDS = 5
# A section's header ends with its name, its instance and its version; the state begins with the clock in ns.
SECTION = b"\x08kvmclock" + struct.pack(">II", 0, 1)

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))


class Qemu:
    """A QEMU with an empty guest; it ends with the `with` block."""

    def __init__(self, executable, *arguments):
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        self.process = subprocess.Popen(
            [
                executable,
                *(
                    "-machine",
                    "pc",
                    "-accel",
                    "kvm",
                    "-nodefaults",
                    "-display",
                    "none",
                    "-m",
                    "64",
                    *arguments,
                ),
                *("-chardev", f"socket,fd={number},id=monitor", "-mon", "chardev=monitor,mode=control"),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=[number],
        )
        theirs.close()
        ours.settimeout(SECONDS)
        self.file = ours.makefile("rw")
        if not self.file.readline():
            print("QEMU does not start with KVM here.")
            sys.exit(2)
        self.ask("qmp_capabilities")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def ask(self, command, **arguments):
        """Send a QMP command and return its result."""
        print(json.dumps({"execute": command, "arguments": arguments}), file=self.file, flush=True)
        while line := self.file.readline():
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise RuntimeError(answer["error"]["desc"])
        raise RuntimeError(f"QEMU ended at '{command}'")

    def wait(self, command, wanted):
        """Ask until the status is the wanted one."""
        end = time.monotonic() + SECONDS
        while (status := self.ask(command).get("status")) != wanted:
            if time.monotonic() > end or status == "failed":
                raise RuntimeError(f"{command} gives {status}")
            time.sleep(0.02)

    def save(self, path):
        """Save the guest; return its clock in seconds, None if it has none."""
        self.ask("migrate", uri=f"exec:cat > {path}")
        self.wait("query-migrate", "completed")
        time.sleep(0.5)
        state = path.read_bytes().partition(SECTION)[2]
        return struct.unpack(">Q", state[:8])[0] / 1e9 if state else None


def main(executable):
    """Return the exit code."""
    text = subprocess.run([executable, "-machine", "help"], capture_output=True, text=True, check=True).stdout
    if not any(line.split()[:1] == ["pc"] for line in text.splitlines()) or not Path("/dev/kvm").exists():
        print("This QEMU has no machine pc, or this machine no KVM.")
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Qemu(executable) as qemu:
            time.sleep(RUN_SECONDS)
            before = qemu.save(folder / "file")
        if before is None:
            print("The guest has no kvmclock.")
            return 2
        found = {}
        for label, onward in (("continued and stopped", True), ("left as it is", False)):
            with Qemu(executable, "-S", "-incoming", f"exec:cat {folder}/file") as qemu:
                qemu.wait("query-status", "paused")
                if onward:
                    qemu.ask("cont")
                    qemu.ask("stop")
                found[onward] = qemu.save(folder / "again")
            print(f"saved at {before:.3f} s, restored paused, {label}, saved again at {found[onward]:.3f} s")
    if found[True] < before:
        raise RuntimeError("the control's clock went back, too")
    if found[False] < before:
        print("The clock of the paused guest went back.")
        return 1
    print("The clock of the paused guest did not go back.")
    return 0


sys.exit(main(sys.argv[1]))
