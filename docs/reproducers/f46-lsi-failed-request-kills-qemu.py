#!/usr/bin/env python3
# F46: a save of a guest whose lsi53c895a has a request that failed aborts QEMU, or crashes the restored one.
# Usage: f46-lsi-failed-request-kills-qemu.py QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Takes 10 s.

A disk with rerror=stop and werror=stop fails a read, and another one a write, so that QEMU keeps the request
and stops the guest. The control is a disk that does not fail. No guest program runs: this is the driver.
"""

import json
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM, DATA, REGISTERS = 0x100000, 0x110000, 0xE0000000
DATA_OUT, DATA_IN = 0, 1
SLOT = 4
READ, WRITE = (DATA_IN, 0x28), (DATA_OUT, 0x2A)


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
    """One QEMU; `gone()` tells how it ended."""

    def __init__(self, program, folder, name, fails, *further):
        image = {"driver": "file", "filename": str(folder / "disk")}
        if fails:
            image = {"driver": "blkdebug", "image": image, "inject-error": [{"event": "none", "sector": 8}]}
        blockdev = {"driver": "raw", "node-name": "disk", "file": image}
        arguments = [program, "-machine", "pc", "-nodefaults", "-display", "none", "-m", "32"]
        arguments += ["-bios", str(folder / "halt")]
        for option in ("qtest", "qmp"):
            arguments += [f"-{option}", f"unix:{folder}/{name}.{option},server=on,wait=off"]
        arguments += ["-qtest-log", "none", "-blockdev", json.dumps(blockdev)]
        arguments += ["-device", f"lsi53c895a,addr={SLOT}"]
        arguments += ["-device", "scsi-hd,drive=disk,rerror=stop,werror=stop", *further]
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

    def register(self, offset, value=None, size=4):
        """Write a register of the controller, or return its value."""
        letter = {1: "b", 4: "l"}[size]
        if value is None:
            return int(self.qtest.ask(f"read{letter} {REGISTERS + offset:#x}").split()[1], 16)
        return self.qtest.ask(f"write{letter} {REGISTERS + offset:#x} {value:#x}")

    def enable(self):
        """Give the controller's registers their place, as firmware does."""
        for place, value in ((0x14, REGISTERS), (0x04, 7)):
            self.qtest.ask(f"outl 0xcf8 {0x80000000 | SLOT << 11 | place:#x}")
            self.qtest.ask(f"outl 0xcfc {value:#x}")

    def begin(self, phase, command):
        """Have the controller run a program that sends a command to the disk."""
        at = PROGRAM
        program = [
            (0x41000008, 0),
            (0x6000001, at + 217),
            (0x2000000 | len(command), at + 200),
            (0x800A0000 | phase << 24, at + 56),
            (0x830A0000, at + 72),
            (0x870A0000, at + 96),
            (0x98080000, 2),
            (phase << 24 | 4096, DATA),
            (0x80080000, at + 24),
            (0x3000001, at + 216),
            (0x7000001, at + 218),
            (0x98080000, 1),
            (0x7000002, at + 218),
            (0x50000000, at + 24),
            (0x7000001, at + 218),
            (0x80080000, at + 24),
        ]
        body = b"".join(struct.pack("<II", *one) for one in program).ljust(200, b"\0")
        self.write(at, body + command.ljust(16, b"\0") + b"\xff\x80")
        self.register(0x2C, at)

    def wait(self, condition):
        """Wait until a condition holds."""
        end = time.monotonic() + 60
        while not condition():
            if time.monotonic() > end:
                raise Failed("QEMU does not do what it is told.")
            time.sleep(0.05)

    def request(self, phase, operation, stops):
        """Get the disk ready, and have it read or write its second block."""
        self.enable()
        for _ in range(4):
            self.begin(DATA_IN, bytes(6))
            self.wait(lambda: self.register(0x0C, size=1) & 4)
        self.begin(phase, struct.pack(">BBIBHB", operation, 0, 8, 0, 8, 0))
        if stops:
            self.wait(lambda: self.execute("query-status")["status"] == "io-error")
        else:
            self.wait(lambda: self.register(0x0C, size=1) & 4)

    def end(self):
        """End QEMU."""
        self.process.kill()
        self.process.wait()
        self.log.close()


def save(program, folder, name, request, fails):
    """Return whether QEMU lived until the save was completed."""
    source = Qemu(program, folder, name, fails)
    try:
        source.request(*request, fails)
        source.execute("migrate", uri=f"exec:cat > {folder}/{name}.vm")
        source.wait(lambda: source.execute("query-migrate").get("status") in ("completed", "failed"))
        return source.execute("query-migrate")["status"] == "completed"
    except ConnectionError:
        print(f"{name}: QEMU ended in the save ({source.process.wait()}): {last_words(source)}")
        return False
    finally:
        source.end()


def restore(program, folder, name):
    """Return whether a QEMU lives with the file; its disk does not fail."""
    target = Qemu(program, folder, f"{name}-restored", False, "-incoming", f"exec:cat {folder}/{name}.vm")
    try:
        target.wait(lambda: target.execute("query-migrate").get("status") == "completed")
        target.execute("cont")
        for _ in range(10):
            time.sleep(0.1)
            target.execute("query-status")
        return True
    except ConnectionError:
        print(f"{name}: the restored QEMU ended ({target.process.wait()}). {last_words(target)}")
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
    if '"lsi53c895a"' not in devices.stdout:
        print("This QEMU has no device lsi53c895a.")
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "disk").write_bytes(bytes(1 << 20))
        # A processor begins 16 bytes before the end: cli, hlt, and a jump back.
        (folder / "halt").write_bytes(bytes(0xFFF0) + bytes.fromhex("faf4ebfd").ljust(16, b"\0"))
        for kind, request in (("control-read", READ), ("control-write", WRITE)):
            if not (save(program, folder, kind, request, False) and restore(program, folder, kind)):
                print("The control, whose disk does not fail, was not saved and restored.")
                return 3
        good = [
            save(program, folder, kind, request, True) and restore(program, folder, kind)
            for kind, request in (("failed-read", READ), ("failed-write", WRITE))
        ]
    if all(good):
        print("Guests with a failed request were saved and restored, as they should be.")
        return 0
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except (Failed, OSError, IndexError, KeyError, TypeError) as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(3)
