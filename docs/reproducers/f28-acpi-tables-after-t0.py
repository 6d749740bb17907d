#!/usr/bin/env python3
# F28: a background snapshot has the ACPI tables of after T0 if QEMU makes them anew while RAM is saved.
# Usage: [ACCEL=kvm] f28-acpi-tables-after-t0.py QEMU [FOLDER]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Needs 100 MB in FOLDER (/var/tmp) and 64 MB of memory, and takes 15 s.

A machine whose firmware (SeaBIOS) has read the ACPI tables gets a further device. It is saved by
stop-and-save, whose file has the tables of T0, and then in the background. Meanwhile it is reset: its
firmware reads the tables again, for which QEMU makes them anew, now with the device. The files must have the
same tables.
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

SECONDS, PAGE = 60, 4096
BLOCKS = ("/rom@etc/acpi/tables", "/rom@etc/table-loader", "/rom@etc/acpi/rsdp")
# migration/ram.c: flags in the low bits of a page's offset.
ZERO, DATA, SAME_BLOCK = 0x02, 0x08, 0x20

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))


class Qemu:
    """A QEMU with firmware alone; it ends with the `with` block."""

    def __init__(self, executable):
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        self.process = subprocess.Popen(
            [
                executable,
                *("-nodefaults", "-display", "none", "-machine", "pc", "-m", "64"),
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

    def save(self, sink):
        """Start a save, and return once RAM is being sent."""
        if words := self.ask("migrate", uri=f"exec:{sink}"):
            print(f"The save is refused: {words}")
            sys.exit(2)
        self.wait(
            lambda found: found.get("ram", {}).get("transferred", 0) > 0 or found["status"] == "completed"
        )

    def wait(self, wanted):
        """Wait until `query-migrate` answers what is wanted."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            found = self.ask("query-migrate")
            if found.get("status") == "failed":
                raise RuntimeError(f"the save failed: {found}")
            if "status" in found and wanted(found):
                return
            time.sleep(0.02)
        raise RuntimeError(f"the save does not go on: {found}")


def tables(path):
    """Return the pages of each block in a file, by block and offset."""
    data, found = path.read_bytes(), {}
    for block in BLOCKS:
        name = bytes([len(block)]) + block.encode()
        # Its first place is the list of blocks; each other one is behind the offset of a page.
        at = data.find(name, data.find(name) + 1)
        while at > 0:
            (word,) = struct.unpack_from(">Q", data, at - 8)
            at += len(name)
            while True:
                size = PAGE if word & DATA else 1
                found[block, word & ~(PAGE - 1)] = data[at : at + size]
                (word,) = struct.unpack_from(">Q", data, at + size)
                at += size + 8
                if not word & SAME_BLOCK or not word & (DATA | ZERO):
                    break
            at = data.find(name, at)
    return found


executable, place = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "/var/tmp"
text = subprocess.run([executable, "-machine", "help"], capture_output=True, text=True, check=True).stdout
if "\npc " not in text:
    print("This QEMU has no machine 'pc'.")
    sys.exit(2)
with tempfile.TemporaryDirectory(dir=place) as folder, Qemu(executable) as qemu:
    control, saved = Path(folder, "control"), Path(folder, "saved")
    # SeaBIOS has read the tables long before it finds that there is no disk.
    time.sleep(5)
    if words := qemu.ask("device_add", driver="virtio-rng-pci", id="plugged", addr="9"):
        raise RuntimeError(words)
    qemu.ask("stop")
    qemu.save(f"cat > {control}")
    qemu.wait(lambda found: found["status"] == "completed")
    qemu.ask("cont")
    on = [{"capability": "background-snapshot", "state": True}]
    if refusal := qemu.ask("migrate-set-capabilities", capabilities=on):
        print(f"The capability is refused: {refusal}")
        sys.exit(2)
    qemu.save(f"sleep 5; cat > {saved}")
    qemu.ask("system_reset")
    qemu.wait(lambda found: found["status"] == "completed")
    before, after = tables(control), tables(saved)
if not before or before.keys() != after.keys():
    raise RuntimeError(f"the files have the pages {sorted(before)} and {sorted(after)}")
other = sorted({block for block, offset in before if before[block, offset] != after[block, offset]})
print(f"of {len(before)} pages, other than at T0: {', '.join(other) or 'none'}")
sys.exit(bool(other))
