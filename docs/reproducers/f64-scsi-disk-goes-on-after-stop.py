#!/usr/bin/env python3
# F64: a SCSI disk of a stopped guest goes on with a long request, which a background snapshot loses.
# Usage: f64-scsi-disk-goes-on-after-stop.py QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Takes 60 s. Needs userfaultfd for the background snapshots.

A guest has a disk behind an lsi53c895a write 128 KiB (the control) or 256 KiB, or read 256 KiB, which a
throttle keeps back. The guest is stopped, or saved while it runs. A stopped guest's disk and memory must stay
as they are, and a restored guest must get its request carried out. No guest program runs: this is the driver.
"""

import json
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM, DATA, REGISTERS = 0x100000, 0x200000, 0xE0000000
DATA_OUT, DATA_IN = 0, 1
SLOT = 4
READ, WRITE = (DATA_IN, 0x28), (DATA_OUT, 0x2A)
CHUNK = 128 << 10


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
        file = {"driver": "file", "filename": str(self.disk)}
        blockdev = {"driver": "raw", "node-name": "disk", "file": file}
        arguments = [program, "-machine", "pc", "-nodefaults", "-display", "none", "-m", "32"]
        arguments += ["-bios", str(folder / "halt")]
        for option in ("qtest", "qmp"):
            arguments += [f"-{option}", f"unix:{folder}/{name}.{option},server=on,wait=off"]
        arguments += ["-qtest-log", "none", "-blockdev", json.dumps(blockdev)]
        arguments += ["-device", f"lsi53c895a,addr={SLOT}", "-device", "scsi-hd,id=hd,drive=disk", *further]
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

    def begin(self, phase, command, size):
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
            (phase << 24 | size, DATA),
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

    def ended(self):
        """Return whether the controller's program has ended, with the request."""
        return bool(self.register(0x0C, size=1) & 4)

    def give(self, request, size):
        """Get the disk ready, and give it a request behind a throttle that lets nothing pass any more."""
        for place, value in ((0x14, REGISTERS), (0x04, 7)):
            self.qtest.ask(f"outl 0xcf8 {0x80000000 | SLOT << 11 | place:#x}")
            self.qtest.ask(f"outl 0xcfc {value:#x}")
        for _ in range(4):
            self.begin(DATA_IN, bytes(6), 0)
            self.wait(self.ended)
        self.throttle(1)
        phase, operation = request
        for one in (READ, WRITE):
            self.begin(one[0], struct.pack(">BBIBHB", one[1], 0, 2048, 0, 1, 0), 512)
            self.wait(self.ended)
        for at in range(DATA, DATA + size, 4096):
            self.write(at, (b"W" if request == WRITE else b"-") * 4096)
        self.begin(phase, struct.pack(">BBIBHB", operation, 0, 0, 0, size // 512, 0), size)

    def throttle(self, size):
        """Let so many bytes pass in a second, to and from the disk each."""
        none = dict.fromkeys(("bps", "iops", "iops_rd", "iops_wr"), 0)
        self.execute("block_set_io_throttle", id="hd", bps_rd=size, bps_wr=size, **none)

    def moved(self, request, size):
        """Return how many parts of the request the image or the memory show to be carried out."""
        if request == WRITE:
            image = self.disk.read_bytes()
            return sum(image[at : at + 1] == b"W" for at in range(0, size, CHUNK))
        return sum("0x52" in self.qtest.ask(f"read {at:#x} 1") for at in range(DATA, DATA + size, CHUNK))

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
        self.log.close()


def started(program, folder, name, request, size):
    """Return a QEMU whose guest has given its disk a request that a throttle keeps back."""
    (folder / f"{name}.disk").write_bytes(b"R" * (2 << 20))
    source = Qemu(program, folder, name)
    source.give(request, size)
    if source.ended() or source.moved(request, size):
        raise Failed("The throttle does not keep the request back.")
    return source


def stays(program, folder, name, request, size):
    """Return whether a stopped guest's disk and memory stay as they are."""
    source = started(program, folder, f"{name}-stopped", request, size)
    try:
        source.execute("stop")
        before = source.moved(request, size)
        source.throttle(1 << 30)
        time.sleep(3)
        after = source.moved(request, size)
        print(f"{name}: {before} of {size // CHUNK} parts are done at the stop, {after} 3 s later.")
        return before == after
    finally:
        source.end()


def arrives(program, folder, name, request, size, background):
    """Return whether a guest that is saved and restored gets its request carried out."""
    name = f"{name}-{'background' if background else 'ordinary'}"
    source = started(program, folder, name, request, size)
    try:
        if background:
            capability = {"capability": "background-snapshot", "state": True}
            source.execute("migrate-set-capabilities", capabilities=[capability])
        source.execute("migrate", uri=f"exec:cat > {folder}/{name}.vm")
        source.wait(lambda: source.execute("query-migrate").get("status") in ("completed", "failed"))
        if source.execute("query-migrate")["status"] != "completed":
            raise Failed("The save failed.")
        print(f"{name}: saved with {source.moved(request, size)} of {size // CHUNK} parts done.")
        (folder / f"{name}-restored.disk").write_bytes(source.disk.read_bytes())
    except ConnectionError:
        print(f"{name}: QEMU ended in the save ({source.process.wait()}). {last_words(source)}")
        return False
    finally:
        source.end()
    target = Qemu(program, folder, f"{name}-restored", "-incoming", f"exec:cat {folder}/{name}.vm")
    try:
        target.wait(lambda: target.execute("query-migrate").get("status") == "completed")
        target.execute("cont")
        time.sleep(3)
        ended = target.ended()
        done = target.moved(request, size)
        print(f"{name}: restored, {done} parts are done, the request has {'' if ended else 'NOT '}ended.")
        return ended and done == size // CHUNK
    except (ConnectionError, IndexError):
        print(f"{name}: the restored QEMU ended ({target.process.wait()}). {last_words(target)}")
        return False
    finally:
        target.end()


def last_words(qemu):
    """Return the last line of a log."""
    qemu.log.seek(0)
    return "".join(qemu.log.readlines()[-1:]).strip()


def all_good(program, folder, name, request, size):
    """Return whether a request goes right in each way."""
    good = [stays(program, folder, name, request, size)]
    good += [arrives(program, folder, name, request, size, background) for background in (True, False)]
    return all(good)


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
        # A processor begins 16 bytes before the end: cli, hlt, and a jump back.
        (folder / "halt").write_bytes(bytes(0xFFF0) + bytes.fromhex("faf4ebfd").ljust(16, b"\0"))
        if not all_good(program, folder, "control", WRITE, CHUNK):
            print("The control, a request of one part, does not go right.")
            return 3
        good = [
            all_good(program, folder, kind, request, 2 * CHUNK)
            for kind, request in (("write", WRITE), ("read", READ))
        ]
    if all(good):
        print("The stopped guests stayed as they were, and each request was carried out, as it should be.")
        return 0
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except (Failed, OSError, IndexError, KeyError, TypeError) as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(3)
