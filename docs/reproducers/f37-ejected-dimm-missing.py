#!/usr/bin/env python3
# F37: a DIMM that the guest ejects during a background snapshot is missing from the file.
# Usage: [ACCEL=kvm] f37-ejected-dimm-missing.py QEMU [FOLDER]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Needs 8 MB in FOLDER (/var/tmp) and Linux 5.19, and takes up to half a minute.

A guest without a system has a DIMM, into which a text is written from outside. While RAM is saved, it ejects
the DIMM as an operating system does: by a write to a port of ACPI's memory hot-plug, which QEMU's human
monitor makes here. The text was there at T0, so it must be in the file. In the control nothing is ejected.
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
TEXT = b"written to the DIMM before T0. " * 100
# The guest's RAM is larger, so QEMU saves it before the DIMM.
DIMM = (
    *("-m", "64,slots=1,maxmem=1G", "-device", "pc-dimm,id=dimm,memdev=memory"),
    *("-object", "memory-backend-memfd,id=memory,size=32M,share=on"),
)
# QEMU hw/acpi/memory_hotplug.c: the registers that choose a DIMM and control it; bit 3 ejects it.
CHOICE_PORT, CONTROL_PORT, EJECT = 0xA00, 0xA14, 8

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))


class Qemu:
    """A QEMU with an empty guest; it ends with the `with` block."""

    def __init__(self, executable, *arguments):
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        self.process = subprocess.Popen(
            [
                executable,
                *("-machine", "pc", "-nodefaults", "-display", "none"),
                *("-accel", os.environ.get("ACCEL", "tcg"), *arguments),
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
        """Send a QMP command; return its result, a refusal as text, or None if QEMU has ended."""
        try:
            print(json.dumps({"execute": command, "arguments": arguments}), file=self.file, flush=True)
            while line := self.file.readline():
                answer = json.loads(line)
                if "return" in answer:
                    return answer["return"]
                if "error" in answer:
                    return answer["error"]["desc"]
        except ConnectionError:
            pass
        return None

    def hmp(self, line):
        """Run a command of the human monitor."""
        return self.ask("human-monitor-command", **{"command-line": line})

    def wait_status(self, wanted):
        """Ask until a migration has a status; return it, or None if QEMU has ended."""
        end = time.monotonic() + SECONDS
        while (answer := self.ask("query-migrate")) is not None and answer.get("status") not in wanted:
            if time.monotonic() > end:
                raise RuntimeError(f"the save is still {answer}")
            time.sleep(0.02)
        return answer and answer["status"]


def write_text(qemu):
    """Write the text into the DIMM's memory."""
    for link in Path(f"/proc/{qemu.process.pid}/fd").iterdir():
        if "/memfd:memory-backend-memfd" in str(link.readlink()):
            with link.open("r+b") as memory:
                memory.write(TEXT)
            return
    raise RuntimeError("QEMU has no memory of the DIMM")


def saved(executable, folder, eject):
    """Save the guest; return how the save ended, and whether the text is in the file."""
    path = Path(folder, f"eject-{eject}")
    with Qemu(executable, *DIMM) as qemu:
        write_text(qemu)
        # The firmware finds its devices first.
        time.sleep(2)
        on = [{"capability": "background-snapshot", "state": True}]
        # RAM of 64 MiB is more than a pipe holds, even if all of its pages are zero.
        uri = f"exec:sleep 4; cat > {shlex.quote(str(path))}"
        refusal = qemu.ask("migrate-set-capabilities", capabilities=on) or qemu.ask("migrate", uri=uri)
        if refusal:
            print(f"QEMU refuses: {refusal}")
            sys.exit(2)
        qemu.wait_status(("active",))
        if eject:
            qemu.hmp(f"o /w {CHOICE_PORT:#x} 0")
            qemu.hmp(f"o /b {CONTROL_PORT:#x} {EJECT:#x}")
            print(f"DIMMs after the guest has ejected its own: {len(qemu.ask('query-memory-devices') or ())}")
        return qemu.wait_status(("completed", "failed")), TEXT in path.read_bytes()


executable, folder = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "/var/tmp"
text = subprocess.run([executable, "-machine", "help"], capture_output=True, text=True, check=True).stdout
if "\npc " not in text:
    print("This QEMU has no machine 'pc'.")
    sys.exit(2)
with tempfile.TemporaryDirectory(dir=folder) as name:
    control, found = (saved(executable, name, eject) for eject in (False, True))
if control != ("completed", True):
    raise RuntimeError(f"the control: {control}")
print("Nothing ejected: the save is completed, and the file has the memory of the DIMM.")
has = "has" if found[1] else "LACKS"
print(f"The DIMM ejected during the save: that is {found[0]}, and the file {has} the memory of the DIMM.")
sys.exit(found == ("completed", False))
