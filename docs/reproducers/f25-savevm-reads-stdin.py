#!/usr/bin/env python3
# F25: `savevm` with the capability background-snapshot left on reads QEMU's standard input, and hangs there.
# Usage: [ACCEL=kvm] f25-savevm-reads-stdin.py QEMU [FOLDER]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Needs 64 MB in FOLDER (/var/tmp), and takes up to a minute.

A guest with a qcow2 disk is saved into it by `savevm`: with the capability off as the control, then on, with
a standard input that has nothing to read (/dev/null), one on which nothing comes, and one on which 64 bytes
come.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS = 15
TYPED = b"x" * 64

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))


class Qemu:
    """A QEMU; it ends with the `with` block."""

    def __init__(self, executable, stdin, *arguments):
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        self.process = subprocess.Popen(
            [
                executable,
                *("-nodefaults", "-display", "none", "-accel", os.environ.get("ACCEL", "tcg"), *arguments),
                *("-chardev", f"socket,fd={number},id=monitor", "-mon", "chardev=monitor,mode=control"),
            ],
            stdin=stdin,
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

    def job(self, options):
        """Run a job that makes an image."""
        self.ask("blockdev-create", **{"job-id": "job", "options": options})
        while (found := self.ask("query-jobs"))[0]["status"] != "concluded":
            time.sleep(0.02)
        if "error" in found[0]:
            raise RuntimeError(found[0]["error"])
        self.ask("job-dismiss", id="job")


def make_disk(executable, path):
    """Make an empty qcow2 image."""
    path.write_bytes(b"")
    with Qemu(executable, subprocess.DEVNULL, "-machine", "none") as qemu:
        qemu.ask("blockdev-add", **{"driver": "file", "filename": str(path), "node-name": "file"})
        qemu.job({"driver": "qcow2", "file": "file", "size": 64 << 20})


def saved(executable, path, background, stdin):
    """Save a guest by `savevm`; return QEMU's words, "" if it is saved, or ours if it gives none."""
    make_disk(executable, path)
    drive = {"driver": "qcow2", "node-name": "disk", "file": {"driver": "file", "filename": str(path)}}
    disk = ("-blockdev", json.dumps(drive), "-device", "virtio-blk,drive=disk")
    with Qemu(executable, stdin, "-machine", "pc", "-m", "64", *disk) as qemu:
        on = [{"capability": "background-snapshot", "state": background}]
        refusal = qemu.ask("migrate-set-capabilities", capabilities=on)
        if refusal:
            print(f"The capability is refused: {refusal}")
            sys.exit(2)
        try:
            return qemu.ask("human-monitor-command", **{"command-line": "savevm one"}).strip()
        except TimeoutError:
            return "NO ANSWER"
        except ConnectionError:
            return "QEMU ABORTED"


def said(answer):
    """Return how a save went, in words."""
    return answer or "saved"


executable, folder = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "/var/tmp"
text = subprocess.run([executable, "-machine", "help"], capture_output=True, text=True, check=True).stdout
if "\npc " not in text:
    print("This QEMU has no machine 'pc'.")
    sys.exit(2)
with tempfile.TemporaryDirectory(dir=folder) as name:
    disk = Path(name, "disk.qcow2")
    control = saved(executable, disk, False, subprocess.DEVNULL)
    if control != "":
        raise RuntimeError(f"the control: {said(control)}")
    nothing = saved(executable, disk, True, subprocess.DEVNULL)
    silent, writer = os.pipe()
    hangs = saved(executable, disk, True, silent)
    os.write(writer, TYPED)
    typed = saved(executable, disk, True, silent)
print(f"empty standard input: {said(nothing)}; {len(TYPED)} bytes on it: {said(typed)}")
print(f"nothing comes on standard input: {said(hangs)}")
sys.exit("" not in (hangs, typed))
