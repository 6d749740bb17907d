#!/usr/bin/env python3
# F20: a background snapshot has the flash (UEFI variables) of after T0.
# Usage: f20-flash-after-t0.py QEMU-SYSTEM-X86_64 [FOLDER]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Needs 50 MB in FOLDER (/var/tmp) and 0.5 GB of memory. Takes up to 60 s, under TCG.

A KVM that emulates does not run code that lies in flash.

A firmware of 40 instructions counts: it puts each number into its memory, and then, by the commands of a
flash device, into one of 1,024 words of a second one, where UEFI has its variables. Before a word is used
again it must be the number of 1,024 steps ago. The guest is saved by stop-and-save and by a background
snapshot, whose sink takes nothing for two seconds, and restored from each with flash files that are as new.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HEARD_SECONDS, STATE, FLASH_BYTES = 60, 0x10000, 1 << 16
# Each line is a piece of the firmware, which begins at 0xffff0000 in the first flash device.
PROGRAM = bytes.fromhex(
    "fa2e660f011618000f20c00c010f22c066ea3600ffff0800"  # to 32-bit mode, by the table below
    "17001e00ffff0000000000000000ffff0000009acf00ffff00000092cf00"
    "b8100000008ed88ec0bf00001000b900004000890f83c704e2f9"  # fills 16 MiB from 1 MiB on
    "bb00000100be0000feff31c0"  # ebx: STATE; esi: the second flash device; eax: the number
    "4089c281e2ff03000089c581ed0004000072078b0c9639cd7515"  # the next number; is its word the one expected?
    "8903c7049640000000890496c70496ff000000ebd1"  # into memory; commands 0x40 (program) and 0xff (read)
    "896b04894b08f4ebf7"  # keeps the word expected and the word found, and halts
)
RESET = b"\xe9" + (0x10000 - 0xFFF3).to_bytes(2, "little")  # at 0xfffffff0: jumps to the beginning

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))


class Qemu:
    """A QEMU with the firmware and an empty second flash device; it ends with the `with` block."""

    def __init__(self, executable, folder, *extra):
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        program = PROGRAM.ljust(FLASH_BYTES - 16, b"\0") + RESET.ljust(16, b"\0")
        for unit, content in enumerate((program, bytes(FLASH_BYTES))):
            Path(folder, f"flash{unit}").write_bytes(content)
        drives = (f"if=pflash,unit={unit},format=raw,file={folder}/flash{unit}" for unit in range(2))
        self.process = subprocess.Popen(
            [
                executable,
                *("-nodefaults", "-display", "none", "-machine", "q35", "-m", "128M"),
                *("-accel", "tcg", *extra),
                *(word for drive in drives for word in ("-drive", drive)),
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
        """Return the guest's number, and the words expected and found where they differ."""
        lines = self.ask("human-monitor-command", **{"command-line": f"xp /3wx {STATE:#x}"}).split("\n")
        return [int(word, 16) for line in lines for word in line.partition(":")[2].split()]

    def wait(self, done):
        """Wait until a condition holds."""
        end = time.monotonic() + HEARD_SECONDS
        while not done():
            if time.monotonic() > end:
                raise RuntimeError("the guest or the save takes too long")
            time.sleep(0.005)


def states(executable, folder, saved, background):
    """Save and restore the guest; return the states of source and restored guest, or QEMU's refusal."""
    with Qemu(executable, folder) as qemu:
        qemu.wait(lambda: qemu.state()[0] > 5000)
        on = [{"capability": "background-snapshot", "state": background}]
        refusal = qemu.ask("migrate-set-capabilities", capabilities=on)
        if not background:
            qemu.ask("stop")
        refusal = refusal or qemu.ask("migrate", uri=f"exec:sleep 2; cat > {saved}")
        if refusal:
            return refusal
        qemu.wait(lambda: qemu.ask("query-migrate").get("status") == "completed")
        source = qemu.state()
    with Qemu(executable, folder, "-incoming", f"exec:cat {saved}") as qemu:
        qemu.wait(lambda: qemu.ask("query-status")["status"] in ("running", "paused"))
        begun = qemu.state()[0]
        qemu.ask("cont")
        qemu.wait(lambda: qemu.state()[0] > begun + 2000 or any(qemu.state()[1:]))
        return source, qemu.state()


qemu, folder = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "/var/tmp"
subprocess.run([qemu, "--version"], stdout=subprocess.DEVNULL, check=True)
machines = subprocess.run([qemu, "-machine", "help"], capture_output=True, text=True, check=True).stdout
if not any(line.startswith("q35 ") for line in machines.splitlines()):
    print("this QEMU has no machine type q35")
    sys.exit(2)
with tempfile.TemporaryDirectory(dir=folder) as name:
    wrong = {}
    for kind in ("stop-and-save", "background"):
        found = states(qemu, name, Path(name, "vmstate"), kind == "background")
        if isinstance(found, str):
            print(f"{kind}: {found}")
            sys.exit(2)
        for guest, (number, expected, word) in zip(("source", "restored guest"), found, strict=True):
            differs = f": {expected} expected in the flash and {word} found" if expected or word else ""
            print(f"{kind}, {guest}: counted to {number}{differs}")
        wrong[kind] = any(expected or word for _, expected, word in found)
if wrong["stop-and-save"]:
    raise RuntimeError("an ordinary save is wrong as well")
sys.exit(wrong["background"])
