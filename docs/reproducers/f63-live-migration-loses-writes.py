#!/usr/bin/env python3
# F63: an ordinary migration of a running TCG guest loses what the guest wrote last.
# Usage: f63-live-migration-loses-writes.py QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Migrate a guest that counts in one page and copies the count into 64 others; compare them afterwards."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMES, RUNNING_SECONDS, SECONDS = 4, 5, 30
sys.excepthook = lambda *error: (sys.__excepthook__(*error), FOLDER.cleanup(), os._exit(3))
FOLDER = tempfile.TemporaryDirectory(dir="/var/tmp")
DISK, STREAM = Path(FOLDER.name, "disk"), Path(FOLDER.name, "vmstate")
COUNT, PAGES, PAGE, COPIES = 0x10000, 64, 0x1000, 0x20000
# 16-bit code at 0x7C00: eax += 1; [COUNT] = eax; [COPIES + (eax % PAGES) * PAGE] = eax; again.
CODE = bytes.fromhex("6631c06640bb00108ec32666a300006689c183e13fc1e10881c100208ec1")
CODE += bytes.fromhex("2666a30000")
CODE += bytes((0xEB, 256 - (len(CODE) + 2 - 3)))


class Qemu:
    """A QEMU with its monitor on standard input and output."""

    def __init__(self, *more):
        """Start it."""
        machine = (sys.argv[1], "-machine", "pc", "-accel", "tcg", "-m", "64M", "-nodefaults")
        # Both QEMUs have the disk, and only boot from it.
        disk = ("-drive", f"file.driver=file,file.filename={DISK},file.locking=off,format=raw,if=ide")
        self.process = subprocess.Popen(
            [*machine, *disk, "-display", "none", "-qmp", "stdio", *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        """Return the result of a command."""
        print(json.dumps({"execute": command, "arguments": arguments}), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                end(3, f"QEMU refuses '{command}': {answer['error']['desc']}")
        return end(3, f"QEMU has ended at '{command}'.")

    def word(self, address):
        """Return a word of guest memory."""
        text = self.ask("human-monitor-command", **{"command-line": f"xp /1wx {address:#x}"})
        return int(text.split(":")[1], 16)

    def wait(self, command, wanted):
        """Wait until a query says a status."""
        limit = time.monotonic() + SECONDS
        while self.ask(command).get("status") != wanted:
            if time.monotonic() > limit:
                end(3, f"'{command}' does not say '{wanted}' in {SECONDS} s.")
            time.sleep(0.05)


def end(code, words):
    """Say what was found, end all QEMUs, and exit."""
    print(words)
    for one in running:
        one.process.kill()
    FOLDER.cleanup()
    os._exit(code)


def migrate():
    """Migrate the running guest into the file, for some seconds, and have it go on."""
    source.ask("migrate-set-parameters", **{"max-bandwidth": 1 << 21, "downtime-limit": 1})
    source.ask("migrate", uri=f"exec:cat > {STREAM}")
    time.sleep(RUNNING_SECONDS)
    source.ask("migrate-set-parameters", **{"max-bandwidth": 1 << 30, "downtime-limit": 60000})
    source.wait("query-migrate", "completed")
    source.ask("cont")


def restored():
    """Return the count and its copies in the restored guest."""
    target = Qemu("-S", "-incoming", f"exec:cat {STREAM}")
    running.append(target)
    target.wait("query-migrate", "completed")
    words = [target.word(COPIES + number * PAGE) for number in range(PAGES)]
    count = target.word(COUNT)
    target.process.kill()
    target.process.wait()
    return count, words


running = []
DISK.write_bytes(CODE.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
source = Qemu()
running.append(source)
time.sleep(5)
if source.word(COUNT) == 0:
    end(3, "The guest does not count.")
wrong = []
for _ in range(TIMES):
    migrate()
    count, copies = restored()
    # The guest was stopped before or behind the copying of one count.
    old = [word for word in copies if not count - PAGES <= word]
    if max(copies) - count > 0 or old:
        wrong.append(f"the count is {count}, its copies are {min(copies)} to {max(copies)}")
end(1 if wrong else 0, f"{len(wrong)} of {TIMES} are wrong: {'; '.join(wrong) or 'none'}")
