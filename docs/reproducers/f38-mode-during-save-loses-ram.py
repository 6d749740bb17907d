#!/usr/bin/env python3
# F38: the parameter `mode`, set during a background snapshot, makes QEMU lose RAM or crash.
# Usage: [ACCEL=kvm] f38-mode-during-save-loses-ram.py QEMU [FOLDER]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Needs 100 MB in FOLDER (/var/tmp), and takes up to a minute.

A guest without a system, whose RAM holds 32 MiB of random bytes, is saved in the background: undisturbed as
the control, and once for each value of `mode` that is set while RAM is saved.
"""

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS = 30
MIB = 1 << 20

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))


class Qemu:
    """A QEMU with an empty guest; it ends with the `with` block."""

    def __init__(self, executable, *arguments):
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        self.process = subprocess.Popen(
            [
                executable,
                *("-machine", "pc", "-nodefaults", "-display", "none", "-m", "64"),
                *("-accel", os.environ.get("ACCEL", "tcg"), *arguments),
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
        """Send a QMP command; return its result, a refusal as text, or None if QEMU has ended."""
        try:
            print(json.dumps({"execute": command, "arguments": arguments}), file=self.file, flush=True)
            while line := self.file.readline():
                answer = json.loads(line)
                if "return" in answer:
                    return answer["return"]
                if "error" in answer:
                    return answer["error"]["desc"]
        except ConnectionError:
            pass
        return None

    def wait_status(self, wanted):
        """Ask until a migration has a status; return it, or None if QEMU has ended."""
        end = time.monotonic() + SECONDS
        while (answer := self.ask("query-migrate")) is not None and answer.get("status") not in wanted:
            if time.monotonic() > end:
                raise RuntimeError(f"the save is still {answer}")
            time.sleep(0.02)
        return answer and answer["status"]


def modes(qemu):
    """Return the values of `mode` that QEMU knows, without `normal`."""
    schema = {entry["name"]: entry for entry in qemu.ask("query-qmp-schema")}
    members = schema[schema["migrate-set-parameters"]["arg-type"]]["members"]
    types = [schema[member["type"]] for member in members if member["name"] == "mode"]
    values = types[0].get("values") or [member["name"] for member in types[0]["members"]] if types else []
    return [value for value in values if value != "normal"]


def saved(executable, folder, mode):
    """Save, and set `mode` meanwhile; return how it ended, and the MiB of the file."""
    path, content = Path(folder, "file"), Path(folder, "content")
    loader = ("-device", f"loader,file={content},addr=0x1000000,force-raw=on")
    with Qemu(executable, *loader) as qemu:
        time.sleep(2)
        on = [{"capability": "background-snapshot", "state": True}]
        uri = f"exec:sleep 3; cat > {shlex.quote(str(path))}"
        refusal = qemu.ask("migrate-set-capabilities", capabilities=on) or qemu.ask("migrate", uri=uri)
        if refusal:
            print(f"QEMU refuses: {refusal}")
            sys.exit(2)
        qemu.wait_status(("active",))
        refusal = qemu.ask("migrate-set-parameters", mode=mode) if mode else ""
        if refusal:
            print(f"QEMU refuses {mode}: {refusal}")
        try:
            status = qemu.wait_status(("completed", "failed"))
        except TimeoutError:
            status = f"QEMU DOES NOT ANSWER for {SECONDS} s"
        return status or f"QEMU ENDED ({qemu.process.wait()})", path.stat().st_size // MIB


executable, folder = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "/var/tmp"
text = subprocess.run([executable, "-machine", "help"], capture_output=True, text=True, check=True).stdout
if "\npc " not in text:
    print("This QEMU has no machine 'pc'.")
    sys.exit(2)
with Qemu(executable) as qemu:
    values = modes(qemu)
if not values:
    print("This QEMU has no migration parameter 'mode'.")
    sys.exit(2)
with tempfile.TemporaryDirectory(dir=folder) as name:
    Path(name, "content").write_bytes(os.urandom(32 * MIB))
    control = saved(executable, name, "")
    if control[0] != "completed" or control[1] < 32:
        raise RuntimeError(f"the control: {control}")
    print(f"Undisturbed: {control[0]}, the file has {control[1]} MiB.")
    shows = False
    for mode in values:
        status, size = saved(executable, name, mode)
        print(f"mode={mode} set during the save: {status}, the file has {size} MiB.")
        shows |= status != "failed" and (status != "completed" or size < 32)
sys.exit(shows)
