#!/usr/bin/env python3
# F54: a background snapshot with the capability x-ignore-shared has no RAM that is a shared file.
# Usage: f54-ignore-shared-loses-ram.py QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Save a guest whose RAM is a shared file with 8 MiB of random bytes, without and with `x-ignore-shared`."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS = 20
CONTENT_BYTES = 8 << 20
sys.excepthook = lambda *error: (sys.__excepthook__(*error), FOLDER.cleanup(), os._exit(3))
# A file system in memory, of which alone the kernel protects a shared file.
FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm")


def end(code, words):
    """Say what was found, end QEMU, and exit."""
    print(words)
    qemu.kill()
    FOLDER.cleanup()
    os._exit(code)


def ask(command, **arguments):
    """Return the result of a command, and its refusal as text."""
    print(json.dumps({"execute": command, "arguments": arguments}), file=qemu.stdin, flush=True)
    for line in qemu.stdout:
        answer = json.loads(line)
        if "return" in answer:
            return answer["return"]
        if "error" in answer:
            return answer["error"]["desc"]
    return end(3, f"QEMU has ended at '{command}'.")


def save(name, *capabilities):
    """Return how many bytes a background snapshot has, or end with QEMU's refusal."""
    settings = [{"capability": one, "state": True} for one in ("background-snapshot", *capabilities)]
    path = Path(FOLDER.name, name)
    for words in (
        ask("migrate-set-capabilities", capabilities=settings),
        ask("migrate", uri=f"exec:cat > {path}"),
    ):
        if words:
            end(0 if capabilities else 2, f"QEMU refuses: {words}")
    limit = time.monotonic() + SECONDS
    while (found := ask("query-migrate")).get("status") != "completed":
        if found.get("status") == "failed" or time.monotonic() > limit:
            end(0 if capabilities else 3, f"The save is not completed: {found}")
        time.sleep(0.1)
    time.sleep(0.5)
    ask("migrate-set-capabilities", capabilities=[{**one, "state": False} for one in settings])
    return path.stat().st_size


CONTENT = Path(FOLDER.name, "content")
CONTENT.write_bytes(os.urandom(CONTENT_BYTES))
BACKEND = f"memory-backend-file,id=ram,size=64M,share=on,mem-path={FOLDER.name}/ram"
qemu = subprocess.Popen(
    [
        *(
            sys.argv[1],
            "-machine",
            "pc,memory-backend=ram",
            "-accel",
            "tcg",
            "-nodefaults",
            "-display",
            "none",
        ),
        *("-display", "none", "-m", "64M", "-object", BACKEND, "-qmp", "stdio"),
        *("-device", f"loader,file={CONTENT},addr=0x1000000,force-raw=on"),
    ],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
)
if not qemu.stdout.readline():
    end(3, "QEMU does not start.")
ask("qmp_capabilities")
time.sleep(1)
control, ignoring = save("control"), save("ignoring", "x-ignore-shared")
print(f"Without 'x-ignore-shared' the snapshot has {control:,} bytes, with it {ignoring:,}.")
if control < CONTENT_BYTES:
    end(3, "The control has no RAM either.")
if ignoring < CONTENT_BYTES:
    end(1, "The snapshot is called completed, and has no RAM.")
end(0, "Both have RAM.")
