#!/usr/bin/env python3
# F48: the AHCI disk of a stopped guest goes on with commands that wait, and a save then aborts QEMU.
# Usage: f48-ahci-commands-after-stop.py QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Takes 60 s. Needs userfaultfd for the background snapshots.

A guest gives an AHCI port writes without NCQ, two (the control) or four at once, while a throttle lets one
pass in a second. When the first one is done the guest is stopped; nothing may be written to its disk then.
Others are saved and restored with the image that the source has after the save, and each command must be
carried out. No guest program runs: this is the driver.
"""

import json
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIST, ANSWERS, TABLES, DATA, REGISTERS = 0x100000, 0x101000, 0x102000, 0x110000, 0xE0000000
BLOCK, SLOT = 4096, 4
ISSUE, PORT_COMMAND, TASK_FILE = 0x138, 0x118, 0x120


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
    """One QEMU with a disk of its own."""

    def __init__(self, program, folder, name, *further):
        self.disk = folder / f"{name}.disk"
        blockdev = {
            "driver": "raw",
            "node-name": "disk",
            "file": {"driver": "file", "filename": str(self.disk)},
        }
        arguments = [program, "-machine", "pc", "-nodefaults", "-display", "none", "-m", "32"]
        arguments += ["-bios", str(folder / "halt")]
        for option in ("qtest", "qmp"):
            arguments += [f"-{option}", f"unix:{folder}/{name}.{option},server=on,wait=off"]
        arguments += ["-qtest-log", "none", "-blockdev", json.dumps(blockdev)]
        arguments += [
            "-device",
            f"ahci,id=bus,addr={SLOT}",
            "-device",
            "ide-hd,id=hd,bus=bus.0,drive=disk",
            *further,
        ]
        self.log = (folder / f"{name}.log").open("w+")
        self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.qtest, self.qmp = (Lines(folder / f"{name}.{option}") for option in ("qtest", "qmp"))
        self.qmp.file.readline()
        self.execute("qmp_capabilities")

    def execute(self, command, **arguments):
        """Return what a QMP command returns; raises ConnectionError where QEMU ends."""
        answer = self.qmp.ask(json.dumps({"execute": command, "arguments": arguments}))
        while answer and "event" in (found := json.loads(answer)):
            answer = self.qmp.file.readline()
        if not answer:
            raise ConnectionError
        return found.get("return")

    def write(self, address, data):
        """Write to RAM."""
        self.qtest.ask(f"write {address:#x} {len(data)} 0x{data.hex()}")

    def register(self, offset, value=None):
        """Write a register of the controller, or return its value."""
        if value is None:
            return int(self.qtest.ask(f"readl {REGISTERS + offset:#x}").split()[1], 16)
        return self.qtest.ask(f"writel {REGISTERS + offset:#x} {value:#x}")

    def enable(self):
        """Give the controller's registers their place, as firmware does, and start the first port."""
        for place, value in ((0x24, REGISTERS), (0x04, 7)):
            self.qtest.ask(f"outl 0xcf8 {0x80000000 | SLOT << 11 | place:#x}")
            self.qtest.ask(f"outl 0xcfc {value:#x}")
        self.register(0x04, 1 << 31)
        for place, value in ((0x100, LIST), (0x104, 0), (0x108, ANSWERS), (0x10C, 0)):
            self.register(place, value)
        self.register(PORT_COMMAND, 1 << 4)
        self.register(PORT_COMMAND, 1 << 4 | 1)

    def give(self, count):
        """Give the port commands (WRITE DMA EXT), of which each writes another block."""
        for slot in range(count):
            table, data = TABLES + slot * 256, DATA + slot * BLOCK
            frame = bytes((0x27, 0x80, 0x35, 0, slot * 8, 0, 0, 0x40, 0, 0, 0, 0, 8, 0))
            self.write(LIST + slot * 32, struct.pack("<IIII16x", 5 | 1 << 6 | 1 << 16, 0, table, 0))
            self.write(table, frame.ljust(128, b"\0") + struct.pack("<QII", data, 0, BLOCK - 1))
            self.write(data, bytes([slot + 1]) * BLOCK)
        self.register(ISSUE, (1 << count) - 1)

    def throttle(self, operations):
        """Let so many requests of the disk pass in a second."""
        none = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops_rd", "iops_wr"), 0)
        self.execute("block_set_io_throttle", id="hd", iops=operations, **none)

    def written(self):
        """Return which commands the image shows to be carried out."""
        image = self.disk.read_bytes()
        return {slot for slot in range(4) if image[slot * BLOCK] == slot + 1}

    def status(self):
        """Return what the port says of its commands."""
        return f"PxCI {self.register(ISSUE):#x}, PxTFD {self.register(TASK_FILE):#x}"

    def wait(self, condition):
        """Wait until a condition holds."""
        end = time.monotonic() + 60
        while not condition():
            if time.monotonic() > end:
                raise Failed("QEMU does not do what it is told.")
            time.sleep(0.05)

    def end(self):
        """End QEMU."""
        self.process.kill()
        self.process.wait()
        self.log.close()


def started(program, folder, name, count):
    """Return a QEMU whose guest has given the port commands, of which a throttle keeps back the second."""
    (folder / f"{name}.disk").write_bytes(bytes(1 << 20))
    source = Qemu(program, folder, name)
    source.enable()
    source.throttle(1)
    source.give(count)
    source.wait(lambda: not source.register(ISSUE) & 1)
    return source


def stays(program, folder, count):
    """Return whether the disk of a stopped guest stays as it is."""
    source = started(program, folder, f"stopped-{count}", count)
    try:
        source.execute("stop")
        before, status = source.written(), source.status()
        time.sleep(6)
        after = source.written()
        print(f"{count} at once, stop: written {sorted(before)}, {status}")
        print(f"{count} at once, 6 s later: written {sorted(after)}, {source.status()}")
        source.execute("cont")
        time.sleep(6)
        print(f"{count} at once, cont: written {sorted(source.written())}, {source.status()}")
        return before == after
    finally:
        source.end()


def arrives(program, folder, count, background):
    """Return whether a guest that is saved and restored gets all its commands carried out."""
    kind = f"{'background' if background else 'ordinary'}-{count}"
    source = started(program, folder, f"saved-{kind}", count)
    try:
        if background:
            capability = {"capability": "background-snapshot", "state": True}
            source.execute("migrate-set-capabilities", capabilities=[capability])
        else:
            source.execute("stop")
        source.execute("migrate", uri=f"exec:cat > {folder}/{kind}.vm")
        source.wait(lambda: source.execute("query-migrate").get("status") in ("completed", "failed"))
        if source.execute("query-migrate")["status"] != "completed":
            raise Failed("The save failed.")
        print(f"{kind}, saved: written {sorted(source.written())}, {source.status()}")
        (folder / f"restored-{kind}.disk").write_bytes(source.disk.read_bytes())
    except ConnectionError:
        print(f"{kind}: QEMU ended in the save ({source.process.wait()}). {last_words(source)}")
        return False
    finally:
        source.end()
    target = Qemu(program, folder, f"restored-{kind}", "-incoming", f"exec:cat {folder}/{kind}.vm")
    try:
        target.wait(lambda: target.execute("query-migrate").get("status") == "completed")
        target.execute("cont")
        time.sleep(6)
        print(f"{kind}, restored: written {sorted(target.written())}, {target.status()}")
        return len(target.written()) == count and not target.register(ISSUE)
    except ConnectionError:
        print(f"{kind}: the restored QEMU ended ({target.process.wait()}). {last_words(target)}")
        return False
    finally:
        target.end()


def last_words(qemu):
    """Return the last line of a log."""
    qemu.log.seek(0)
    return "".join(qemu.log.readlines()[-1:]).strip()


def main(program):
    """Return the exit code."""
    devices = subprocess.run([program, "-machine", "none", "-device", "help"], capture_output=True, text=True)
    if devices.returncode:
        return 3
    if '"ahci"' not in devices.stdout:
        print("This QEMU has no device ahci.")
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A processor begins 16 bytes before the end: cli, hlt, and a jump back.
        (folder / "halt").write_bytes(bytes(0xFFF0) + bytes.fromhex("faf4ebfd").ljust(16, b"\0"))
        if not (
            stays(program, folder, 2)
            and arrives(program, folder, 2, False)
            and arrives(program, folder, 2, True)
        ):
            print("The control, which gives two commands, does not go right.")
            return 3
        good = [
            stays(program, folder, 4),
            arrives(program, folder, 4, False),
            arrives(program, folder, 4, True),
        ]
    if all(good):
        print("The stopped guest's disk stayed as it was, and each command was carried out, as it should be.")
        return 0
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except (Failed, OSError, IndexError, KeyError, TypeError) as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(3)
