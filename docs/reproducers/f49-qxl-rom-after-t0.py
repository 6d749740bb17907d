#!/usr/bin/env python3
# F49: a background snapshot has what a QXL display device wrote into its ROM after T0.
# Usage: [ACCEL=kvm] f49-qxl-rom-after-t0.py QEMU [FOLDER]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Needs 200 MB in FOLDER (/var/tmp) and 200 MB of memory, and takes 15 s.

A guest sets a graphics mode of a QXL device through its I/O ports, and another one while a background
snapshot is taken. The device writes the mode's number into its ROM, which the guest reads it from. The file
must have the first number. Stop-and-save is the control.
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
# spice/qxl_dev.h of spice-protocol 0.14: QXLRom begins with a magic word, and has the mode as its sixth word.
BLOCK, PLACE, MAGIC, MODE_AT = "0000:00:04.0/qxl.vrom", 0, b"QXRO", 20
# The same: the number of the I/O port, behind the base address register of number 3.
SET_MODE, PORTS = 6, 3
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
                *("-device", "qxl,addr=4,ram_size_mb=16,vram_size_mb=16"),
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

    def set_mode(self, number):
        """Set a mode as the guest would, by the port that its firmware gave to the device."""
        for device in self.ask("query-pci")[0]["devices"]:
            if device["slot"] == 4:
                (port,) = (region["address"] for region in device["regions"] if region["bar"] == PORTS)
                line = f"o /b {port + SET_MODE:#x} {number}"
                self.ask("human-monitor-command", **{"command-line": line})

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


def found_mode(path):
    """Return the mode in the ROM in a file."""
    data, name = path.read_bytes(), bytes([len(BLOCK)]) + BLOCK.encode()
    # Its first place is the list of blocks; each other one is behind the offset of a page.
    at = data.find(name, data.find(name) + 1)
    while at > 0:
        (word,) = struct.unpack_from(">Q", data, at - 8)
        at += len(name)
        while True:
            size = PAGE if word & DATA else 1
            if word & ~(PAGE - 1) == PLACE and word & DATA:
                if data[at : at + 4] != MAGIC:
                    raise RuntimeError(f"{BLOCK} in {path} does not begin with {MAGIC}")
                return struct.unpack_from("<I", data, at + MODE_AT)[0]
            (word,) = struct.unpack_from(">Q", data, at + size)
            at += size + 8
            if not word & SAME_BLOCK or not word & (DATA | ZERO):
                break
        at = data.find(name, at)
    raise RuntimeError(f"{path} does not have page {PLACE:#x} of {BLOCK}")


executable, place = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "/var/tmp"
text = subprocess.run([executable, "-device", "help"], capture_output=True, text=True, check=True).stdout
if 'name "qxl"' not in text:
    print("This QEMU has no device 'qxl'.")
    sys.exit(2)
BEFORE, AFTER = 2, 5
with tempfile.TemporaryDirectory(dir=place) as folder, Qemu(executable) as qemu:
    control, saved = Path(folder, "control"), Path(folder, "saved")
    # SeaBIOS has set the device up by then.
    time.sleep(3)
    qemu.set_mode(BEFORE)
    qemu.ask("stop")
    qemu.save(f"cat > {control}")
    qemu.wait(lambda found: found["status"] == "completed")
    qemu.ask("cont")
    on = [{"capability": "background-snapshot", "state": True}]
    if refusal := qemu.ask("migrate-set-capabilities", capabilities=on):
        print(f"The capability is refused: {refusal}")
        sys.exit(2)
    # T0 is past when RAM is being sent. The device writes to its RAM as well, which waits for protected
    # pages, so the sink must take something. The ROM is behind all RAM.
    slowly = f"until [ -e {folder}/written ]; do head -c 20000; sleep 0.1; done"
    qemu.save(f"({slowly}; cat) > {saved}")
    qemu.set_mode(AFTER)
    Path(folder, "written").touch()
    qemu.wait(lambda found: found["status"] == "completed")
    modes = found_mode(control), found_mode(saved)
print(f"of T0: {BEFORE}; stop-and-save: {modes[0]}; background snapshot: {modes[1]}")
if modes[0] != BEFORE or modes[1] not in (BEFORE, AFTER):
    raise RuntimeError("the device did not set the mode")
sys.exit(modes[1] == AFTER)
