#!/usr/bin/env python3
# F45: a virtio-serial device is dead in the restored guest if there is a pause in its state.
# Usage: [ACCEL=kvm] f45-virtio-serial-broken-by-load.py QEMU [FOLDER]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Needs 100 MB in FOLDER (/var/tmp) and 64 MB of memory, and takes 15 s.

A machine has a port of a virtio-serial device, of which this script is the driver: through PCI configuration
space, and by a mapping of guest RAM. The port has sent a part of a buffer when the machine is saved. The file
is restored at once (the control), and with a pause of a second in the state of the device's queues, as a slow
pipe or network makes one. Then the port must send the rest of the buffer, and another one.
"""

import array
import fcntl
import json
import mmap
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

SECONDS, MIB, PAGE = 30, 1 << 20, 4096
RAM_MIB, BASE, SLOT = 64, 48 * MIB, 5
QUEUES, SIZE = {3: BASE, 5: BASE + 4 * PAGE}, 4
FLIGHT, LATER, SAID = BASE + 8 * PAGE, BASE + 12 * PAGE, BASE + 13 * PAGE
# VIRTIO 1.2, 4.1.4 and 4.1.4.3: registers in the common configuration, kinds of capability.
FEATURE_SELECT, FEATURES, STATUS, QUEUE_SELECT, QUEUE_SIZE, ENABLE, NOTIFY_OFFSET = 8, 12, 20, 22, 24, 28, 30
DESCRIPTORS, COMMON, NOTIFY, WINDOW = 32, 1, 2, 5

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))


class Qemu:
    """A QEMU with shared RAM and the port, whose processor stands still; it ends with the `with` block."""

    def __init__(self, executable, folder, *arguments, files=()):
        Path(folder).mkdir()
        for name in ("far.in", "far.out"):
            os.mkfifo(f"{folder}/{name}")
        self.far = os.open(f"{folder}/far.out", os.O_RDWR | os.O_NONBLOCK)
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        self.log = Path(folder, "log")
        self.process = subprocess.Popen(
            [
                executable,
                *("-S", "-nodefaults", "-display", "none", "-machine", "pc,memory-backend=ram"),
                *("-m", f"{RAM_MIB}M", "-object", f"memory-backend-memfd,id=ram,size={RAM_MIB}M,share=on"),
                *("-accel", os.environ.get("ACCEL", "tcg"), "-chardev", f"pipe,id=far,path={folder}/far"),
                *("-device", f"virtio-serial-pci,addr={SLOT},disable-modern=off,disable-legacy=on"),
                *("-device", "virtserialport,nr=1,chardev=far", *arguments),
                *("-chardev", f"socket,fd={number},id=monitor", "-mon", "chardev=monitor,mode=control"),
            ],
            stdin=subprocess.DEVNULL,
            stderr=os.open(self.log, os.O_CREAT | os.O_WRONLY),
            pass_fds=[number, *files],
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
        """Send a QMP command; return its result, or raise its error."""
        print(json.dumps({"execute": command, "arguments": arguments}), file=self.file, flush=True)
        while True:
            answer = json.loads(self.file.readline())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise RuntimeError(answer["error"]["desc"])

    def wait(self, command, key, value):
        """Ask until an answer has a value."""
        end = time.monotonic() + SECONDS
        while (found := self.ask(command)).get(key) != value:
            if time.monotonic() > end:
                raise RuntimeError(f"{command} still says {found}")
            time.sleep(0.02)

    def memory(self):
        """Return the machine's RAM, mapped into this process."""
        for file in Path(f"/proc/{self.process.pid}/fd").iterdir():
            if str(file.readlink()).startswith("/memfd:") and file.stat().st_size == RAM_MIB * MIB:
                with file.open("r+b") as opened:
                    return mmap.mmap(opened.fileno(), RAM_MIB * MIB)
        raise RuntimeError("QEMU has no memory file")

    def hmp(self, line):
        """Return what a command of the human monitor says."""
        return self.ask("human-monitor-command", **{"command-line": line})

    def put(self, place, size, value):
        """Write to the device's configuration space."""
        self.hmp(f"o /w 0xcf8 {1 << 31 | SLOT << 11 | place & ~3:#x}")
        self.hmp(f"o /{'_bh_w'[size]} {0xCFC + place % 4:#x} {value:#x}")

    def get(self, place, size):
        """Read the device's configuration space."""
        self.hmp(f"o /w 0xcf8 {1 << 31 | SLOT << 11 | place & ~3:#x}")
        return int(self.hmp(f"i /{'_bh_w'[size]} {0xCFC + place % 4:#x}").split("=")[1], 16)

    def capabilities(self):
        """Return the place of each kind of the device's virtio capabilities."""
        found, place = {}, self.get(0x34, 1)
        while place:
            head = self.get(place, 4)
            if head & 0xFF == 9:
                found[head >> 24] = place
            place = head >> 8 & 0xFF
        return found

    def access(self, kind, offset, size, value=None):
        """Read or write a register of the device."""
        places = self.capabilities()
        window = places[WINDOW]
        self.put(window + 4, 1, self.get(places[kind] + 4, 1))
        self.put(window + 8, 4, self.get(places[kind] + 8, 4) + offset)
        self.put(window + 12, 4, size)
        if value is None:
            return self.get(window + 16, size)
        return self.put(window + 16, size, value)

    def kick(self, queue):
        """Tell the device that a queue has more."""
        self.access(COMMON, QUEUE_SELECT, 2, queue)
        factor = self.get(self.capabilities()[NOTIFY] + 16, 4)
        self.access(NOTIFY, self.access(COMMON, NOTIFY_OFFSET, 2) * factor, 2, queue)

    def received(self):
        """Return what the port sends until it is silent for a second."""
        found = b""
        while select.select([self.far], [], [], 1)[0]:
            found += os.read(self.far, MIB)
        return found


def offer(memory, queue, chains):
    """Offer the chains that begin with these descriptors, all that the driver has ever offered."""
    ring = QUEUES[queue] + PAGE
    memory[ring : ring + 4 + 2 * len(chains)] = struct.pack(f"<HH{len(chains)}H", 1, len(chains), *chains)


def start(qemu, memory):
    """Set the device up, and open the port."""
    qemu.put(4, 2, 7)
    qemu.access(COMMON, STATUS, 1, 3)
    for half, features in ((0, 2), (1, 1)):
        qemu.access(COMMON, FEATURE_SELECT, 4, half)
        qemu.access(COMMON, FEATURES, 4, features)
    qemu.access(COMMON, STATUS, 1, 11)
    for queue, place in QUEUES.items():
        qemu.access(COMMON, QUEUE_SELECT, 2, queue)
        qemu.access(COMMON, QUEUE_SIZE, 2, SIZE)
        for number in range(3):
            qemu.access(COMMON, DESCRIPTORS + 8 * number, 4, place + PAGE * number)
        qemu.access(COMMON, ENABLE, 2, 1)
    qemu.access(COMMON, STATUS, 1, 15)
    # The driver is ready, so is port 1, which is open.
    said = b"".join(struct.pack("<IHH", *words) for words in ((0, 0, 1), (1, 3, 1), (1, 6, 1)))
    memory[SAID : SAID + len(said)] = said
    table = b"".join(struct.pack("<QIHH", SAID + 8 * number, 8, 0, 0) for number in range(3))
    memory[QUEUES[3] : QUEUES[3] + len(table)] = table
    offer(memory, 3, [0, 1, 2])
    qemu.kick(3)
    table = struct.pack("<QIHHQIHH", FLIGHT, 3 * PAGE, 0, 0, LATER, PAGE, 0, 0)
    memory[QUEUES[5] : QUEUES[5] + len(table)] = table
    memory[FLIGHT : FLIGHT + 3 * PAGE] = b"flight.." * (3 * PAGE // 8)
    memory[LATER : LATER + PAGE] = b"later..." * (PAGE // 8)


def save(executable, folder):
    """Save a machine whose port has sent one page of three; return the file."""
    with Qemu(executable, f"{folder}/source") as qemu:
        start(qemu, qemu.memory())
        filler = os.open(f"{folder}/source/far.out", os.O_WRONLY | os.O_NONBLOCK)
        size = 64 << 10
        if os.write(filler, bytes(size - PAGE)) != size - PAGE:
            raise RuntimeError("the pipe is smaller than 64 KiB")
        offer(qemu.memory(), 5, [0])
        qemu.kick(5)
        time.sleep(0.5)
        qemu.ask("migrate", uri=f"exec:cat > {folder}/part && mv {folder}/part {folder}/file")
        qemu.wait("query-migrate", "status", "completed")
        # QEMU says so before the command has ended.
        end = time.monotonic() + SECONDS
        while not (file := Path(folder, "file")).exists() and time.monotonic() < end:
            time.sleep(0.02)
    return file.read_bytes()


def unread(pipe):
    """Return how many bytes a pipe holds."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def restored(executable, folder, name, file, cut):
    """Restore the file, which QEMU gets in two parts; return how much the port sends of both buffers."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, MIB)
    # All of the first part is there before QEMU looks for it.
    if os.write(write_end, file[:cut]) != cut:
        raise RuntimeError("a pipe does not hold 1 MiB")
    with Qemu(executable, f"{folder}/{name}", "-incoming", f"fd:{read_end}", files=[read_end]) as qemu:
        end = time.monotonic() + SECONDS
        while unread(read_end) and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(1)
        os.write(write_end, file[cut:])
        os.close(write_end)
        while qemu.ask("query-status")["status"] == "inmigrate" and time.monotonic() < end:
            time.sleep(0.02)
        flight = qemu.received()
        offer(qemu.memory(), 5, [0, 1])
        qemu.kick(5)
        later = qemu.received()
        print(f"{name}: the port sends {len(flight)} bytes, and after the next notification {len(later)}.")
        words = [line for line in qemu.log.read_text().splitlines() if "warning" not in line]
        print("".join(f"  {line}\n" for line in words), end="")
        return len(flight), len(later)


executable, place = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "/var/tmp"
text = subprocess.run([executable, "-device", "help"], capture_output=True, text=True, check=True).stdout
if '"virtio-serial-pci"' not in text or '"virtserialport"' not in text:
    print("This QEMU has no virtio-serial device.")
    sys.exit(2)
with tempfile.TemporaryDirectory(dir=place) as folder:
    file = save(executable, folder)
    place_of_queues = file.rfind(b"virtio/virtqueues")
    if place_of_queues < 0 or len(file) > MIB:
        raise RuntimeError("the file does not have the state of the device's queues, or is too large")
    # The state of all queues has 16 KiB, and more follows.
    right = restored(executable, folder, "at once", file, len(file))
    found = restored(executable, folder, "with a pause", file, place_of_queues + (20 << 10))
if right != (2 * PAGE, PAGE):
    raise RuntimeError("the control is wrong")
sys.exit(found != right)
