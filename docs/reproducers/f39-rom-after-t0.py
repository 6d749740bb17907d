#!/usr/bin/env python3
# F39: a background snapshot has what a debugger wrote into ROM after T0.
# Usage: [ACCEL=kvm] f39-rom-after-t0.py QEMU [FOLDER]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Needs 100 MB in FOLDER (/var/tmp) and 64 MB of memory, and takes 15 s.

QEMU's debugger writes a word into the ROM of the firmware, as it does to set a breakpoint there, and another
one while a background snapshot is taken. The file must have the first word. Stop-and-save is the control.
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
# In the ROM of 256 KiB that ends at 4 GiB, in a page without code that runs.
BLOCK, PLACE, ADDRESS = "pc.bios", 0x8000, 0xFFFC8000
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

    def debug_write(self, folder, word):
        """Have the debugger write a word into ROM; the guest goes on afterwards."""
        path = f"{folder}/gdb"
        self.ask("human-monitor-command", **{"command-line": f"gdbserver unix:{path},server=on,wait=off"})
        with socket.socket(socket.AF_UNIX) as debugger:
            debugger.settimeout(SECONDS)
            debugger.connect(path)
            command = f"M{ADDRESS:x},4:{word.hex()}"
            debugger.sendall(f"${command}#{sum(command.encode()) % 256:02x}".encode())
            answer = b""
            while b"$OK#" not in answer:
                answer += debugger.recv(1) or b"$OK#"
            self.ask("human-monitor-command", **{"command-line": "gdbserver none"})
        self.ask("cont")

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


def found_word(path):
    """Return the word in a file."""
    data, name = path.read_bytes(), bytes([len(BLOCK)]) + BLOCK.encode()
    # Its first place is the list of blocks; each other one is behind the offset of a page.
    at = data.find(name, data.find(name) + 1)
    while at > 0:
        (word,) = struct.unpack_from(">Q", data, at - 8)
        at += len(name)
        while True:
            size = PAGE if word & DATA else 1
            if word & ~(PAGE - 1) == PLACE and word & DATA:
                return data[at : at + 4]
            (word,) = struct.unpack_from(">Q", data, at + size)
            at += size + 8
            if not word & SAME_BLOCK or not word & (DATA | ZERO):
                break
        at = data.find(name, at)
    raise RuntimeError(f"{path} does not have page {PLACE:#x} of {BLOCK}")


executable, place = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "/var/tmp"
text = subprocess.run([executable, "-machine", "help"], capture_output=True, text=True, check=True).stdout
if "\npc " not in text:
    print("This QEMU has no machine 'pc'.")
    sys.exit(2)
BEFORE, AFTER = b"T0..", b"new!"
with tempfile.TemporaryDirectory(dir=place) as folder, Qemu(executable) as qemu:
    control, saved = Path(folder, "control"), Path(folder, "saved")
    # SeaBIOS waits for a disk by then.
    time.sleep(3)
    qemu.debug_write(folder, BEFORE)
    qemu.ask("stop")
    qemu.save(f"cat > {control}")
    qemu.wait(lambda found: found["status"] == "completed")
    qemu.ask("cont")
    on = [{"capability": "background-snapshot", "state": True}]
    if refusal := qemu.ask("migrate-set-capabilities", capabilities=on):
        print(f"The capability is refused: {refusal}")
        sys.exit(2)
    qemu.save(f"sleep 3; cat > {saved}")
    qemu.debug_write(folder, AFTER)
    qemu.wait(lambda found: found["status"] == "completed")
    words = found_word(control), found_word(saved)
print(f"of T0: {BEFORE}; stop-and-save: {words[0]}; background snapshot: {words[1]}")
if words[0] != BEFORE or words[1] not in (BEFORE, AFTER):
    raise RuntimeError("the debugger did not write")
sys.exit(words[1] == AFTER)
