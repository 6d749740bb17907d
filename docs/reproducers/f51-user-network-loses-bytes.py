#!/usr/bin/env python3
# F51: a restored guest never gets all that its user network kept of a connection (guestfwd).
# Usage: [ACCEL=kvm] f51-user-network-loses-bytes.py QEMU [FOLDER]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Needs 20 MB in FOLDER (/var/tmp) and 64 MB of memory, and takes 10 s.

A user network has a server that is a character device. This script is the guest: a hub connects the network
with a socket, through which it sends ARP and TCP by hand. It takes 16 bytes at a time. The server sends 64
bytes, of which the guest has acknowledged none when the machine is saved in the ordinary way. The source,
which goes on, must send all of them (the control), and so must the restored QEMU.
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

SECONDS, WINDOW, SENT = 30, 16, bytes(range(64, 128))
LATER = b"after the load.."
GUEST, SERVER = bytes((10, 0, 2, 15)), bytes((10, 0, 2, 100))
MAC, OTHER = bytes.fromhex("525400000001"), bytes.fromhex("52550a000202")
PORTS = (40000, 7)
SYN, ACK = 2, 16

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))


class Qemu:
    """A QEMU whose user network is at a hub with a socket; it ends with the `with` block."""

    def __init__(self, executable, folder, *arguments):
        Path(folder).mkdir()
        for name in ("far.in", "far.out"):
            os.mkfifo(f"{folder}/{name}")
        self.far = os.open(f"{folder}/far.in", os.O_RDWR | os.O_NONBLOCK)
        self.wire = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.wire.bind(f"{folder}/guest")
        self.qemu = f"{folder}/qemu"
        ours, theirs = socket.socketpair()
        ends = f"local.type=unix,local.path={self.qemu},remote.type=unix,remote.path={folder}/guest"
        self.process = subprocess.Popen(
            [
                executable,
                *("-nodefaults", "-display", "none", "-machine", "pc", "-m", "64M"),
                *("-accel", os.environ.get("ACCEL", "tcg"), "-chardev", f"pipe,id=far,path={folder}/far"),
                *("-netdev", "user,id=user,restrict=on,guestfwd=tcp:10.0.2.100:7-chardev:far"),
                *("-netdev", f"dgram,id=wire,{ends}"),
                *("-netdev", "hubport,id=a,hubid=0,netdev=user"),
                *("-netdev", "hubport,id=b,hubid=0,netdev=wire", *arguments),
                *(
                    "-chardev",
                    f"socket,fd={theirs.fileno()},id=monitor",
                    "-mon",
                    "chardev=monitor,mode=control",
                ),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
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

    def kept(self):
        """Return how many bytes for the guest the user network keeps."""
        words = self.ask("human-monitor-command", **{"command-line": "info usernet"}).split()
        return int(words[words.index("TCP[ESTABLISHED]") + 7])

    def send(self, frame):
        """Send a frame of the guest's."""
        self.wire.sendto(frame.ljust(60, b"\0"), self.qemu)

    def segment(self):
        """Answer ARP; return number, flags and data of the server's next segment, None if none comes."""
        self.wire.settimeout(2)
        try:
            while True:
                frame = self.wire.recv(2048)
                if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\1" and frame[38:42] == GUEST:
                    self.send(arp(2, frame[22:28], frame[28:32]))
                if frame[12:14] == b"\x08\x00" and frame[26:30] == SERVER:
                    (size,) = struct.unpack_from(">H", frame, 16)
                    number, _, offset, flags = struct.unpack_from(">IIBB", frame, 38)
                    return number, flags, frame[34 + (offset >> 4) * 4 : 14 + size]
        except TimeoutError:
            return None


def arp(operation, mac, address):
    """Return an ARP frame of the guest's."""
    head = mac + MAC + b"\x08\x06" + struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
    return head + MAC + GUEST + mac + address


def checksum(data):
    """Return the checksum of IPv4 and TCP."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def tcp(number, expected, flags):
    """Return the frame of a segment without data from the guest."""
    parts = [*PORTS, number, expected, 5 << 4, flags, WINDOW, 0, 0]
    parts[7] = checksum(GUEST + SERVER + struct.pack(">HH", 6, 20) + struct.pack(">HHIIBBHHH", *parts))
    packet = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, GUEST, SERVER)
    packet = packet[:10] + struct.pack(">H", checksum(packet)) + packet[12:]
    return OTHER + MAC + b"\x08\x00" + packet + struct.pack(">HHIIBBHHH", *parts)


def received(qemu, expected):
    """Take and acknowledge all that the server sends, from the byte with this number on; return it."""
    found = b""
    while segment := qemu.segment():
        number, _, data = segment
        if not data:
            continue
        known = expected + len(found) - number
        if known >= 0:
            found += data[known:]
        qemu.send(tcp(1001, expected + len(found), ACK))
    return found


def main(executable, folder):
    """Return whether the defect shows."""
    file = f"{folder}/file"
    with Qemu(executable, f"{folder}/source") as source:
        source.send(arp(1, b"\xff" * 6, GUEST))
        source.send(tcp(1000, 0, SYN))
        answer = source.segment()
        if answer is None or not answer[1] & SYN:
            raise RuntimeError(f"the server does not answer: {answer}")
        first = answer[0] + 1
        source.send(tcp(1001, first, ACK))
        os.write(source.far, SENT)
        if (segment := source.segment()) is None or segment[2] != SENT[:WINDOW]:
            raise RuntimeError(f"the server does not send: {segment}")
        at_t0 = source.kept()
        source.ask("stop")
        source.ask("migrate", uri=f"exec:cat > {file}.part && mv {file}.part {file}")
        source.wait("query-migrate", "status", "completed")
        end = time.monotonic() + SECONDS
        while not Path(file).exists() and time.monotonic() < end:
            time.sleep(0.02)
        source.ask("cont")
        source.send(tcp(1001, first + WINDOW, ACK))
        control = SENT[:WINDOW] + received(source, first + WINDOW)
    print(f"source: the user network keeps {at_t0} bytes at T0, and the guest gets {len(control)} of 64.")
    if at_t0 != len(SENT) or control != SENT:
        raise RuntimeError("the control is wrong")
    with Qemu(executable, f"{folder}/restored", "-incoming", f"exec:cat {file}") as restored:
        restored.wait("query-status", "status", "paused")
        kept = restored.kept()
        restored.ask("cont")
        restored.send(arp(1, b"\xff" * 6, GUEST))
        restored.send(tcp(1001, first + WINDOW, ACK))
        found = SENT[:WINDOW] + received(restored, first + WINDOW)
        os.write(restored.far, LATER)
        later = received(restored, first + len(found))
    print(f"restored: the user network keeps {kept} bytes, and the guest gets {len(found)} of 64.")
    print(f"restored: the server sends {LATER!r}, and the guest gets {later!r}.", flush=True)
    return found != SENT or later != LATER


executable, place = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "/var/tmp"
text = subprocess.run([executable, "-netdev", "help"], capture_output=True, text=True, check=True).stdout
if not {"user", "dgram"} <= set(text.split()):
    print("This QEMU has no user network, or no network of the kind 'dgram'.")
    sys.exit(2)
with tempfile.TemporaryDirectory(dir=place) as folder:
    sys.exit(main(executable, folder))
