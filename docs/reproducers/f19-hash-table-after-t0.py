#!/usr/bin/env python3
# F19: a background snapshot of pseries has the hash page table of after T0.
# Usage: f19-hash-table-after-t0.py QEMU-SYSTEM-PPC64 [FOLDER]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Needs 100 MB in FOLDER (/var/tmp) and 0.5 GB of memory. Takes up to 30 s.

A guest of 59 instructions counts: it puts each number into one of eight entries of the hash page table
(H_REMOVE, H_ENTER) and then into its memory, and before an entry is used again it compares both (H_READ). It
is saved by stop-and-save and by a background snapshot, and restored from each. It must find them equal, and
its hypercalls must work.
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

HEARD_SECONDS, STATE = 60, 0x410000
# Each line is a piece of the program, which is loaded at 0x400000.
PROGRAM = bytes.fromhex(
    "7c8000a638a0000178a5f8067c842b787c8001644c00012c"  # 64-bit mode
    "3dc000413c6001003c8000807c8903a6"
    "38a000013863fff8f8a3000938a500074200fff8"  # r14: STATE; fills 64 MiB
    "39e0000071f000077a111f243a3100807e3172142c2f0008"
    "41800058"  # r15: the number; r16: its entry; r17: its word
    "3860000c388000007e058378440000222c23000040820078"  # H_READ
    "7884a302e8d100007c24300041820020"  # equal?
    "e8ee000838e70001f8ee00082c2700014082000cf8ce0010f88e0018"  # counts, and keeps the first two numbers
    "38600004388000007e05837844000022"  # H_REMOVE
    "386000083880000178843e067e05837879e664e460c6000138e00010440000222c23000040820014"  # H_ENTER
    "f9f1000039ef0001f9ee00004bffff60"  # stores the number, goes on
    "f86e002048000000"  # keeps the code of a failed call
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
        """Send a QMP command; return its result, or the description of the error."""
        print(json.dumps({"execute": command, "arguments": arguments}), file=self.file, flush=True)
        while True:
            answer = json.loads(self.file.readline())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                return answer["error"]["desc"]

    def state(self):
        """Return the guest's number, differences, the first one in memory and in table, and a failed call."""
        lines = self.ask("human-monitor-command", **{"command-line": f"xp /5gx {STATE:#x}"}).split("\n")
        words = [int(word, 16) for line in lines for word in line.partition(":")[2].split()]
        return [*words[:4], words[4] and words[4] - (1 << 64)]

    def wait(self, done):
        """Wait until a condition holds."""
        end = time.monotonic() + HEARD_SECONDS
        while not done():
            if time.monotonic() > end:
                raise RuntimeError("the guest or the save takes too long")
            time.sleep(0.005)


def states(executable, kernel, saved, background):
    """Save and restore the guest; return the states of source and restored guest, or QEMU's refusal."""
    with Qemu(executable, kernel) as qemu:
        qemu.wait(lambda: qemu.state()[0] > 1000)
        on = [{"capability": "background-snapshot", "state": background}]
        refusal = qemu.ask("migrate-set-capabilities", capabilities=on)
        if not background:
            qemu.ask("stop")
        refusal = refusal or qemu.ask("migrate", uri=f"exec:cat > {saved}")
        if refusal:
            return refusal
        qemu.wait(lambda: qemu.ask("query-migrate").get("status") == "completed")
        source = qemu.state()
    with Qemu(executable, kernel, "-incoming", f"exec:cat {saved}") as qemu:
        qemu.wait(lambda: qemu.ask("query-status")["status"] in ("running", "paused"))
        begun = qemu.state()[0]
        qemu.ask("cont")
        qemu.wait(lambda: qemu.state()[0] > begun + 1000 or qemu.state()[4])
        return source, qemu.state()


qemu, folder = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "/var/tmp"
subprocess.run([qemu, "--version"], stdout=subprocess.DEVNULL, check=True)
machines = subprocess.run([qemu, "-machine", "help"], capture_output=True, text=True, check=True).stdout
if not any(line.startswith("pseries ") for line in machines.splitlines()):
    print("this QEMU has no machine type pseries")
    sys.exit(2)
with tempfile.TemporaryDirectory(dir=folder) as name:
    kernel, saved = Path(name, "kernel"), Path(name, "vmstate")
    kernel.write_bytes(elf(PROGRAM))
    wrong = {}
    for kind in ("stop-and-save", "background"):
        found = states(qemu, kernel, saved, kind == "background")
        if isinstance(found, str):
            print(f"{kind}: {found}")
            sys.exit(2)
        for guest, (number, count, memory, table, code) in zip(
            ("source", "restored guest"), found, strict=True
        ):
            failed = f", and its hypercall failed with {code}" if code else ""
            first = f" (the first: {memory} in memory, {table} in the table)" if count else ""
            print(f"{kind}, {guest}: counted to {number}, {count} differences{first}{failed}")
        wrong[kind] = any(state[1] or state[4] for state in found)
if wrong["stop-and-save"]:
    raise RuntimeError("an ordinary save is wrong as well")
sys.exit(wrong["background"])
