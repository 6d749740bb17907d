#!/usr/bin/env python3
# F44: a guest that is saved on a host with pages of 16 KiB cannot be restored on a host with pages of 4 KiB.
# Usage: f44-page-size-of-the-host.py QEMU [FOLDER]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Needs 10 MB in FOLDER (/var/tmp), and takes some seconds.

A guest that has not been started is saved here. One small RAMBlock in the file has 4 KiB. It is given the
length that QEMU writes on a host with pages of 16 KiB, and both files are restored: the unchanged one is the
control.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS = 60
NAME = b"/rom@etc/acpi/rsdp"
LENGTH, ON_16_KIB = 0x1000, 0x4000

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))


class Qemu:
    """A QEMU that does not start its guest; it ends with the `with` block."""

    def __init__(self, executable, log, *arguments):
        self.log = log
        self.process = subprocess.Popen(
            [
                executable,
                *("-machine", "pc", "-accel", "tcg", "-m", "64", "-nodefaults", "-display", "none", "-S"),
                *("-qmp", "stdio", *arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )
        self.process.stdout.readline()
        self.ask("qmp_capabilities")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def ask(self, command, **arguments):
        """Send a QMP command; return its result, or None if QEMU has ended."""
        try:
            print(
                json.dumps({"execute": command, "arguments": arguments}), file=self.process.stdin, flush=True
            )
        except BrokenPipeError:
            return None
        for line in self.process.stdout:
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise RuntimeError(answer["error"]["desc"])
        return None

    def wait(self, command, wanted):
        """Wait until a query has a wanted status; return False if QEMU ends before that."""
        end = time.monotonic() + SECONDS
        while (answer := self.ask(command)) is not None and answer.get("status") not in wanted:
            if time.monotonic() > end:
                raise RuntimeError(f"{command} says {answer}")
            time.sleep(0.02)
        return answer is not None


def refusal(executable, path):
    """Restore a file; return QEMU's words if it ends, "" if it takes the file."""
    log = path.with_suffix(".log")
    with Qemu(executable, log, "-incoming", f"exec:cat {path}") as qemu:
        if qemu.wait("query-status", ("prelaunch", "paused", "running")):
            return ""
        qemu.process.wait()
    return log.read_text()


def main():
    """Save, change the file, restore both, and return the exit code."""
    executable = sys.argv[1]
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else "/var/tmp") as folder:
        own, other = Path(folder, "own"), Path(folder, "other")
        machines = subprocess.run(
            [executable, "-machine", "help"], capture_output=True, text=True, check=True
        )
        if "\npc " not in machines.stdout:
            print("This QEMU has no machine type 'pc'.")
            return 2
        with Qemu(executable, Path(folder, "log")) as qemu:
            qemu.ask("migrate", uri=f"exec:cat > {own}")
            qemu.wait("query-migrate", ("completed",))
        data = own.read_bytes()
        at = data.find(NAME) + len(NAME)
        if data[at : at + 8] != LENGTH.to_bytes(8, "big"):
            print(f"The file has no RAMBlock '{NAME.decode()}' of 4 KiB; has this host other pages?")
            return 2
        other.write_bytes(data[:at] + ON_16_KIB.to_bytes(8, "big") + data[at + 8 :])
        if words := refusal(executable, own):
            print(f"QEMU does not restore its own file either: {words.strip()}")
            return 3
        words = refusal(executable, other)
    if words and "Size too large" not in words:
        print(f"QEMU refuses the file for another reason: {words.strip()}")
        return 3
    print(f"F44 {'shows' if words else 'does not show'}: {words.strip() or 'QEMU takes the file.'}")
    return int(bool(words))


sys.exit(main())
