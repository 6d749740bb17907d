#!/usr/bin/env python3
# F26: a background snapshot has what a vhost-user process wrote to guest RAM after T0.
# Usage: [ACCEL=kvm] f26-vhost-user-writes-after-t0.py QEMU [FOLDER]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Needs 100 MB in FOLDER (/var/tmp) and 64 MB of memory, and takes 5 s.

A machine has a network card whose packets come from a vhost-user process: this script. It sets the card up as
a guest's driver does, and as the card's process it maps guest RAM and fills 1,024 pages of it: with old pages
before the save, and with new ones while RAM is being saved. As any such process it writes only while the
card's queues are started. Stop-and-save, for which QEMU stops the queues, is the control.
"""

import array
import json
import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SECONDS, MIB, PAGE = 30, 1 << 20, 4096
RAM_MIB, FIRST, PAGES, QUEUE = 64, 48 * MIB, 1024, 32 * MIB
OLD, NEW = (name.ljust(PAGE, b".") for name in (b"old page " * 9, b"new page " * 9))
# docs/interop/vhost-user.rst: requests, and the feature bits without which QEMU refuses a migration.
GET_FEATURES, SET_MEM_TABLE, SET_VRING_KICK, GET_VRING_BASE, GET_PROTOCOL = 1, 5, 12, 11, 15
FEATURES, PROTOCOL_FEATURES = 1 << 32 | 1 << 30 | 1 << 26, 1 << 1

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))
threading.excepthook = lambda found: (sys.excepthook(*found[:3]), os._exit(3))


class Process:
    """The card's process: answers QEMU, and maps guest RAM."""

    def __init__(self, path):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.ram, self.first, self.started = None, 0, set()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        """Answer QEMU's requests until it closes the connection."""
        connection, _ = self.listener.accept()
        while True:
            try:
                head, ancillary, *_ = connection.recvmsg(12, socket.CMSG_SPACE(64))
            except ConnectionError:
                return
            if len(head) < 12:
                return
            request, _, size = struct.unpack("<III", head)
            body = connection.recv(size, socket.MSG_WAITALL) if size else b""
            files = array.array("i")
            for _, _, data in ancillary:
                files.frombytes(data[: len(data) // 4 * 4])
            answer = self.answer(request, body, files)
            if answer is not None:
                connection.sendall(struct.pack("<III", request, 5, len(answer)) + answer)

    def answer(self, request, body, files):
        """Return the answer to a request, None where there is none."""
        if request == GET_FEATURES:
            return struct.pack("<Q", FEATURES)
        if request == GET_PROTOCOL:
            return struct.pack("<Q", PROTOCOL_FEATURES)
        if request == SET_MEM_TABLE:
            regions = struct.iter_unpack("<QQQQ", body[8:])
            for file, (start, size, _, offset) in zip(files, regions, strict=False):
                if start <= FIRST < start + size:
                    self.ram, self.first = mmap.mmap(file, size, offset=offset), FIRST - start
        if request == SET_VRING_KICK:
            self.started.add(body[0])
        if request == GET_VRING_BASE:
            number = struct.unpack("<I", body[:4])[0]
            self.started.discard(number)
            return struct.pack("<II", number, 0)
        return None

    def fill(self, page):
        """Write all pages, if the queue is started."""
        if not self.started:
            return False
        for number in range(PAGES):
            start = self.first + number * PAGE
            self.ram[start : start + PAGE] = page
        return True


class Qemu:
    """A QEMU with the card; it ends with the `with` block."""

    def __init__(self, executable, folder, process_path):
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{folder}/qtest")
            listener.listen(1)
            ram = f"memory-backend-memfd,id=ram,size={RAM_MIB}M,share=on"
            self.process = subprocess.Popen(
                [
                    executable,
                    *("-nodefaults", "-display", "none", "-machine", "pc,memory-backend=ram"),
                    *("-m", f"{RAM_MIB}M", "-object", ram),
                    *("-accel", os.environ.get("ACCEL", "tcg"), "-S"),
                    *("-qtest", f"unix:{folder}/qtest", "-qtest-log", "/dev/null"),
                    *("-chardev", f"socket,id=card,path={process_path}"),
                    *("-netdev", "vhost-user,id=net,chardev=card"),
                    *("-device", "virtio-net-pci,netdev=net,romfile=,addr=5"),
                    *("-chardev", f"socket,fd={number},id=monitor", "-mon", "chardev=monitor,mode=control"),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[number],
            )
            theirs.close()
            listener.settimeout(SECONDS)
            self.test = listener.accept()[0].makefile("rw")
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

    def do(self, text):
        """Send a command of the qtest protocol; return its value, 0 where it has none."""
        print(text, file=self.test, flush=True)
        words = self.test.readline().split()
        if words[0] != "OK":
            raise RuntimeError(f"{text}: {words}")
        return int(words[1], 16) if len(words) > 1 else 0

    def place(self, offset):
        """Point at a register in the configuration space of the card."""
        self.do(f"outl 0xcf8 {0x80000000 | 5 << 11 | offset & ~3:#x}")

    def get(self, offset):
        """Read a word of configuration space."""
        self.place(offset)
        return self.do("inl 0xcfc")

    def put(self, offset, value, letter="l"):
        """Write to configuration space."""
        self.place(offset)
        self.do(f"out{letter} {0xCFC + offset % 4:#x} {value:#x}")

    def wait(self, wanted):
        """Wait until a migration is in a state, or has failed."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            found = self.ask("query-migrate")
            if found.get("status") in (wanted, "failed"):
                return found
            time.sleep(0.02)
        raise RuntimeError(f"the migration does not become '{wanted}': {found}")


def set_up(qemu):
    """Start the card's queues, as a guest's driver does (VIRTIO 1.2, 3.1 and 4.1.4)."""
    kinds, place = {}, qemu.get(0x34) & 0xFF
    while place:
        head = qemu.get(place)
        if head & 0xFF == 9:
            kinds[head >> 24] = (qemu.get(place + 4) & 0xFF, qemu.get(place + 8), place)
        place = head >> 8 & 0xFF
    bar, common, _ = kinds[1]
    window = kinds[5][2]
    qemu.put(4, 6, "w")

    def register(offset, size, value):
        for field, content, letter in ((4, bar, "b"), (8, common + offset, "l"), (12, size, "l")):
            qemu.put(window + field, content, letter)
        qemu.put(window + 16, value, {1: "b", 2: "w", 4: "l"}[size])

    register(20, 1, 3)
    for half, bits in ((0, 0), (1, 1)):
        register(8, 4, half)
        register(12, 4, bits)
    register(20, 1, 11)
    for queue in range(2):
        register(22, 2, queue)
        for offset in (32, 40, 48):
            register(offset, 4, QUEUE + (queue * 3 + offset // 8 - 4) * 4 * PAGE)
            register(offset + 4, 4, 0)
        register(28, 2, 1)
    register(20, 1, 15)


def new_pages(executable, folder, background):
    """Save a machine while its card's process writes; return how many pages of after T0 the file has."""
    process = Process(f"{folder}/card")
    with Qemu(executable, folder, f"{folder}/card") as qemu:
        set_up(qemu)
        qemu.ask("cont")
        end = time.monotonic() + SECONDS
        while not process.fill(OLD):
            if time.monotonic() > end:
                raise RuntimeError("QEMU does not start the card's process")
            time.sleep(0.02)
        on = [{"capability": "background-snapshot", "state": background}]
        if refusal := qemu.ask("migrate-set-capabilities", capabilities=on):
            print(f"The capability is refused: {refusal}")
            sys.exit(2)
        if not background:
            qemu.ask("stop")
        words = qemu.ask("migrate", uri=f"exec:head -c 100000 > {folder}/head; sleep 2; cat > {folder}/rest")
        if words:
            print(f"The save is refused: {words}")
            sys.exit(2)
        # T0 is past when RAM is being sent; the sink then takes no more of it for two seconds.
        time.sleep(1)
        written = process.fill(NEW)
        found = qemu.wait("completed")
        if found["status"] != "completed":
            raise RuntimeError(f"the save failed: {found}")
        if written != background:
            raise RuntimeError(f"the process {'wrote' if written else 'did not write'} during the save")
    saved = Path(folder, "rest").read_bytes()
    if saved.count(OLD) + saved.count(NEW) != PAGES:
        raise RuntimeError("the file lacks some of the pages")
    return saved.count(NEW)


executable, place = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "/var/tmp"
text = subprocess.run([executable, "-machine", "help"], capture_output=True, text=True, check=True).stdout
if "\npc " not in text:
    print("This QEMU has no machine 'pc'.")
    sys.exit(2)
found = {}
for background in (False, True):
    with tempfile.TemporaryDirectory(dir=place) as name:
        found[background] = new_pages(executable, name, background)
if found[False]:
    raise RuntimeError(f"the control has {found[False]} pages of after T0")
print(f"pages of after T0: stop-and-save {found[False]}, background snapshot {found[True]} of {PAGES}")
sys.exit(found[True] > 0)
