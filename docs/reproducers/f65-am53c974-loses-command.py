#!/usr/bin/env python3
# F65: an am53c974 of every restored guest has lost the command that it was carrying out.
# Usage: f65-am53c974-loses-command.py QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Takes 20 s. Needs userfaultfd for the background snapshot.

A guest has a disk behind an am53c974 read a block, which a throttle keeps back until QEMU stops the guest to
save it. The restored guest leads the controller through the rest of the command, and must get the block. The
control gives the command after it was restored. No guest program runs: this is the driver.
"""

import json
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND, DATA, PORTS = 0x100000, 0x110000, 0xC000
SLOT = 4
BLOCK = 4096
READ = struct.pack(">BBIBHB", 0x28, 0, 0, 0, BLOCK // 512, 0)
SELECT, TRANSFER, FINISH, ACCEPT, BY_DMA = 0x42, 0x10, 0x11, 0x12, 0x80


class Failed(Exception):
    """This script or QEMU did not work."""


class Lines:
    """A socket that talks in lines."""

    def __init__(self, path):
        end = time.monotonic() + 60
        while True:
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.settimeout(60)
                self.socket.connect(str(path))
                break
            except OSError:
                if time.monotonic() > end:
                    raise Failed("QEMU does not listen.") from None
                time.sleep(0.05)
        self.file = self.socket.makefile("rw")

    def ask(self, text):
        """Return the answer to a line."""
        self.file.write(text + "\n")
        self.file.flush()
        return self.file.readline()


class Qemu:
    """One QEMU with a disk, and the driver of its controller."""

    def __init__(self, program, folder, name, *further):
        file = {"driver": "file", "filename": str(folder / "disk"), "read-only": True}
        blockdev = {"driver": "raw", "node-name": "disk", "read-only": True, "file": file}
        arguments = [program, "-machine", "pc", "-nodefaults", "-display", "none", "-m", "32"]
        arguments += ["-bios", str(folder / "halt")]
        for option in ("qtest", "qmp"):
            arguments += [f"-{option}", f"unix:{folder}/{name}.{option},server=on,wait=off"]
        arguments += ["-qtest-log", "none", "-blockdev", json.dumps(blockdev)]
        arguments += ["-device", f"am53c974,addr={SLOT}", "-device", "scsi-hd,id=hd,drive=disk", *further]
        self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
        self.qtest, self.qmp = (Lines(folder / f"{name}.{option}") for option in ("qtest", "qmp"))
        self.qmp.file.readline()
        self.execute("qmp_capabilities")

    def execute(self, command, **arguments):
        """Return what a QMP command returns."""
        answer = self.qmp.ask(json.dumps({"execute": command, "arguments": arguments}))
        while answer and "event" in (found := json.loads(answer)):
            answer = self.qmp.file.readline()
        if not answer:
            raise Failed("QEMU ended.")
        return found.get("return")

    def put(self, register, value):
        """Write a register of the controller."""
        self.qtest.ask(f"outl {PORTS + register:#x} {value:#x}")

    def get(self, register):
        """Return a register of the controller."""
        return int(self.qtest.ask(f"inl {PORTS + register:#x}").split()[1], 16)

    def enable(self):
        """Give the controller's registers their place, as firmware does, and get the disk ready."""
        for place, value in ((0x10, PORTS | 1), (0x04, 5)):
            self.qtest.ask(f"outl 0xcf8 {0x80000000 | SLOT << 11 | place:#x}")
            self.qtest.ask(f"outl 0xcfc {value:#x}")
        for _ in range(4):
            self.begin(bytes(6))
            self.wait(lambda: self.lead() is not None)

    def order(self, command, address, size, direction):
        """Have the controller carry out a command of its own, by DMA."""
        self.put(0x40, direction)
        self.put(0x44, size)
        self.put(0x48, address)
        for byte, register in enumerate((0x00, 0x04, 0x38)):
            self.put(register, size >> 8 * byte & 0xFF)
        self.put(0x0C, command | BY_DMA)
        self.put(0x40, 3 | direction)

    def begin(self, command):
        """Have the controller select the disk, and send it a command."""
        sent = b"\x80" + command
        self.qtest.ask(f"write {COMMAND:#x} {len(sent)} 0x{sent.hex()}")
        self.put(0x10, 0)
        self.order(SELECT, COMMAND, len(sent), 0)

    def lead(self):
        """Lead the controller to the next phase if it has ended one; return the status in the last one."""
        status = self.get(0x10)
        if not status & 0x80:
            return None
        happened = self.get(0x14)
        if status & 7 == 3:
            self.put(0x0C, FINISH)
            found = self.get(0x08)
            self.get(0x08)
            self.get(0x14)
            self.put(0x0C, ACCEPT)
            self.get(0x14)
            return found
        if happened & 8:
            self.order(TRANSFER, DATA, BLOCK, 0x80)
        return None

    def throttle(self, size):
        """Let so many bytes pass in a second."""
        none = dict.fromkeys(("bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
        self.execute("block_set_io_throttle", id="hd", bps=size, **none)

    def wait(self, condition, seconds=60):
        """Wait until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise Failed("QEMU does not do what it is told.")
            time.sleep(0.05)

    def end(self):
        """End QEMU."""
        self.process.kill()
        self.process.wait()


def arrives(program, folder, in_flight, background):
    """Return whether a restored guest gets a block, by a command of before or after the save."""
    name = f"{'before' if in_flight else 'after'}-{'background' if background else 'ordinary'}"
    source = Qemu(program, folder, name)
    try:
        source.enable()
        if in_flight:
            source.throttle(1)
            # The first one passes.
            for _ in range(2):
                source.begin(READ)
                end = time.monotonic() + 1
                while source.lead() is None and time.monotonic() < end:
                    time.sleep(0.01)
            source.qtest.ask(f"memset {DATA:#x} {BLOCK} 0x2d")
        if background:
            capability = {"capability": "background-snapshot", "state": True}
            source.execute("migrate-set-capabilities", capabilities=[capability])
        source.execute("migrate", uri=f"exec:cat > {folder}/{name}.vm")
        source.wait(lambda: source.execute("query-migrate").get("status") in ("completed", "failed"))
        if source.execute("query-migrate")["status"] != "completed":
            raise Failed("The save failed.")
    finally:
        source.end()
    target = Qemu(program, folder, f"{name}-restored", "-incoming", f"exec:cat {folder}/{name}.vm")
    try:
        target.wait(lambda: target.execute("query-migrate").get("status") == "completed")
        target.execute("cont")
        if not in_flight:
            target.begin(READ)
        status, end = None, time.monotonic() + 5
        while status is None and time.monotonic() < end:
            status = target.lead()
            time.sleep(0.01)
        got = "0x52" in target.qtest.ask(f"read {DATA:#x} 1")
        print(
            f"{name}: the restored guest gets {'the block' if got else 'no data'}, and the status {status}."
        )
        return got and status == 0
    finally:
        target.end()


def main(program):
    """Return the exit code."""
    devices = subprocess.run([program, "-machine", "none", "-device", "help"], capture_output=True, text=True)
    if devices.returncode:
        return 3
    if '"am53c974"' not in devices.stdout:
        print("This QEMU has no device am53c974.")
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "disk").write_bytes(b"R" * (1 << 20))
        # A processor begins 16 bytes before the end: cli, hlt, and a jump back.
        (folder / "halt").write_bytes(bytes(0xFFF0) + bytes.fromhex("faf4ebfd").ljust(16, b"\0"))
        after, before = (
            [arrives(program, folder, in_flight, background) for background in (True, False)]
            for in_flight in (False, True)
        )
        if not all(after):
            print("The control, which gives its command after it was restored, does not go right.")
            return 3
        if all(before):
            print("Each restored guest got the block that it had asked for, as it should.")
            return 0
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except (Failed, OSError, IndexError, KeyError, TypeError) as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(3)
