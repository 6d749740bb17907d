#!/usr/bin/env python3
# F27: QEMU 7.2 neither saves nor starts the decrementer, so that the timer of a restored pseries never fires.
# Usage: f27-decrementer-not-restored.py QEMU-SYSTEM-PPC64 [FOLDER]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Needs no background snapshot. Takes 8 s, and some MB in FOLDER (/var/tmp).

A guest of some 40 instructions counts the interrupts of its decrementer, which it sets to 65 ms in each, and
the rounds of the loop that they interrupt. It is saved by stop-and-save. Then source and restored guest are
watched for three seconds each: both must go on counting rounds and interrupts.
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

HEARD_SECONDS, LOOK_SECONDS, STATE = 60, 3, 0x410000
# Ticks; 16 ms. A guest that is saved with its interrupt pending takes it and sets the decrementer anew.
LEAST_LEFT = 0x800000
# Linked to 0x400000; the eight words at offset 0x60 are copied to 0x900, the vector of the decrementer.
PROGRAM = bytes.fromhex(
    "7c8000a638a0000178a5f8067c842b787c8001644c00012c"  # 64-bit mode
    "3dc000413ca0004060a5006038c0090038e000087ce903a6"  # r14: STATE
    "80e5000090e6000038a5000438c600044200fff048400082"  # copies the handler, goes on at 0x80
    + "00"
    * 24
    + "e8ae000038a50001f8ae0000"  # the handler: counts an interrupt
    "3cc002007cd603a64c0000246000000060000000"  # sets the decrementer to 0x2000000, returns
    "7c00306c7c0004ac38a009007c002fac4c00012c"  # 0x80: the copy is code
    "3cc002007cd603a67c8000a6608480007c800164"  # sets the decrementer, allows interrupts
    "39ef0001f9ee00087d1602a6f90e00104bfffff0"  # for ever: counts a round, stores the decrementer
)

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))


def elf(program):
    """Return a big-endian ELF file that loads a program to address 0, to which QEMU adds 0x400000."""
    offset, kind, machine = 0x78, 2, 21
    head = b"\x7fELF\x02\x02\x01" + bytes(9)
    head += struct.pack(">HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 2, 64, 56, 1, 0, 0, 0)
    head += struct.pack(">IIQQQQQQ", 1, 7, offset, 0, 0, len(program), len(program), 4)
    return head + program


class Qemu:
    """A QEMU of machine type pseries; it ends with the `with` block."""

    def __init__(self, executable, kernel, *extra):
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        self.process = subprocess.Popen(
            [
                executable,
                *("-nodefaults", "-display", "none", "-machine", "pseries,x-vof=on", "-accel", "tcg"),
                *("-m", "256M", "-kernel", kernel, *extra),
                *("-chardev", f"socket,fd={number},id=monitor", "-mon", "chardev=monitor,mode=control"),
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
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
        """Send a QMP command; return its result."""
        print(json.dumps({"execute": command, "arguments": arguments}), file=self.file, flush=True)
        while True:
            answer = json.loads(self.file.readline())
            if "error" in answer:
                raise RuntimeError(answer["error"]["desc"])
            if "return" in answer:
                return answer["return"]

    def state(self):
        """Return the guest's numbers of interrupts and of rounds, and its decrementer, which has a sign."""
        lines = self.ask("human-monitor-command", **{"command-line": f"xp /3gx {STATE:#x}"}).split("\n")
        words = [int(word, 16) for line in lines for word in line.partition(":")[2].split()]
        return words[0], words[1], words[2] - (words[2] >> 63 << 64)

    def wait(self, done):
        """Wait until a condition holds."""
        end = time.monotonic() + HEARD_SECONDS
        while not done():
            if time.monotonic() > end:
                raise RuntimeError("the guest or the save takes too long")
            time.sleep(0.02)


def stopped_amid(qemu):
    """Stop the guest; return whether its next interrupt is far away, and let it go on where it is not."""
    qemu.ask("stop")
    if qemu.state()[2] >= LEAST_LEFT:
        return True
    qemu.ask("cont")
    return False


def counted(qemu, name):
    """Print what a running guest does in a while; return its interrupts."""
    interrupts, rounds, _ = qemu.state()
    time.sleep(LOOK_SECONDS)
    qemu.wait(lambda: qemu.state()[1] > rounds + 100000)
    more, more_rounds, decrementer = qemu.state()
    print(
        f"{name}: {more_rounds - rounds} rounds, {more - interrupts} interrupts of the decrementer, "
        f"which is {decrementer:#x}"
    )
    return more - interrupts


qemu, folder = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "/var/tmp"
subprocess.run([qemu, "--version"], stdout=subprocess.DEVNULL, check=True)
machines = subprocess.run([qemu, "-machine", "help"], capture_output=True, text=True, check=True).stdout
if not any(line.startswith("pseries ") for line in machines.splitlines()):
    print("this QEMU has no machine type pseries")
    sys.exit(2)
with tempfile.TemporaryDirectory(dir=folder) as name:
    kernel, saved = Path(name, "kernel"), Path(name, "vmstate")
    kernel.write_bytes(elf(PROGRAM))
    with Qemu(qemu, kernel) as source:
        source.wait(lambda: source.state()[0] > 10)
        source.wait(lambda: stopped_amid(source))
        source.ask("migrate", uri=f"exec:cat > {saved}")
        source.wait(lambda: source.ask("query-migrate").get("status") == "completed")
        source.ask("cont")
        if not counted(source, "source"):
            raise RuntimeError("the decrementer of the source does not work either")
    with Qemu(qemu, kernel, "-incoming", f"exec:cat {saved}") as restored:
        restored.wait(lambda: restored.ask("query-status")["status"] == "paused")
        restored.ask("cont")
        sys.exit(not counted(restored, "restored guest"))
