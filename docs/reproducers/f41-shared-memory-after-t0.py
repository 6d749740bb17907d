#!/usr/bin/env python3
# F41: a save has what another process wrote to shared guest memory after T0.
# Usage: [ACCEL=kvm] f41-shared-memory-after-t0.py QEMU [FOLDER]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Needs 100 MB in FOLDER (/var/tmp) and 64 MB of memory, and takes 6 s.

A machine has RAM that other processes can map (memory-backend-memfd,share=on). This script fills 1,024 pages
of it with old pages before the save, and with new ones while RAM is being saved: by a mapping of its own, of
which userfaultfd in QEMU knows nothing. Nobody tells it of T0. The same is done while stop-and-save runs.
"""

import json
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS, MIB, PAGE = 30, 1 << 20, 4096
RAM_MIB, FIRST, PAGES = 64, 48 * MIB, 1024
HEAD = 100_000
OLD, NEW = (name.ljust(PAGE, b".") for name in (b"old page " * 9, b"new page " * 9))

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))


class Qemu:
    """A QEMU with firmware alone and shared RAM; it ends with the `with` block."""

    def __init__(self, executable):
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        self.process = subprocess.Popen(
            [
                executable,
                *("-nodefaults", "-display", "none", "-machine", "pc,memory-backend=ram"),
                *("-m", f"{RAM_MIB}M", "-object", f"memory-backend-memfd,id=ram,size={RAM_MIB}M,share=on"),
                *("-accel", os.environ.get("ACCEL", "tcg")),
                *("-chardev", f"socket,fd={number},id=monitor", "-mon", "chardev=monitor,mode=control"),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=[number],
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
        """Send a QMP command; return its result, or the description of the error."""
        print(json.dumps({"execute": command, "arguments": arguments}), file=self.file, flush=True)
        while True:
            answer = json.loads(self.file.readline())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                return answer["error"]["desc"]

    def memory(self):
        """Return the machine's RAM, mapped into this process."""
        for file in Path(f"/proc/{self.process.pid}/fd").iterdir():
            if str(file.readlink()).startswith("/memfd:") and file.stat().st_size == RAM_MIB * MIB:
                with file.open("r+b") as opened:
                    return mmap.mmap(opened.fileno(), RAM_MIB * MIB)
        raise RuntimeError("QEMU has no memory file")


def new_pages(executable, folder, background):
    """Save a machine while its memory is written; return how many pages of after T0 the file has."""
    with Qemu(executable) as qemu:
        memory = qemu.memory()
        # SeaBIOS clears what it uses before this.
        time.sleep(1)
        memory[FIRST : FIRST + PAGES * PAGE] = OLD * PAGES
        on = [{"capability": "background-snapshot", "state": background}]
        if refusal := qemu.ask("migrate-set-capabilities", capabilities=on):
            print(f"The capability is refused: {refusal}")
            sys.exit(2)
        if not background:
            qemu.ask("stop")
        head, written = Path(folder, "head"), Path(folder, "written")
        # The sink takes nothing more until all new pages are written, however late that is.
        sink = f"head -c {HEAD} > {head}; until [ -e {written} ]; do sleep 0.1; done; cat > {folder}/rest"
        words = qemu.ask("migrate", uri=f"exec:{sink}")
        if words:
            print(f"The save is refused: {words}")
            sys.exit(2)
        end = time.monotonic() + SECONDS
        # T0 is past when this much of RAM was sent.
        while not head.exists() or head.stat().st_size < HEAD:
            if time.monotonic() > end:
                raise RuntimeError("the save sends nothing")
            time.sleep(0.02)
        memory[FIRST : FIRST + PAGES * PAGE] = NEW * PAGES
        written.touch()
        end = time.monotonic() + SECONDS
        while (found := qemu.ask("query-migrate")).get("status") != "completed":
            if found.get("status") == "failed" or time.monotonic() > end:
                raise RuntimeError(f"the save does not complete: {found}")
            time.sleep(0.02)
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
print(f"pages of after T0: stop-and-save {found[False]}, background snapshot {found[True]} of {PAGES}")
sys.exit(found[True] > 0)
