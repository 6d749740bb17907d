#!/usr/bin/env python3
# F55: an internal snapshot while the capability `multifd` is on crashes QEMU.
# Usage: f55-multifd-savevm-crashes.py QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Save a guest into an image by `snapshot-save`, without and with the capability `multifd`."""

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS = 20
sys.excepthook = lambda *error: (sys.__excepthook__(*error), FOLDER.cleanup(), os._exit(3))
FOLDER = tempfile.TemporaryDirectory(dir="/var/tmp")
IMAGE = Path(FOLDER.name, "image.qcow2")
CLUSTER = 1 << 16


def write_image(size):
    """Write an empty qcow2 image: header, refcounts' table and block, L1 table (docs/interop/qcow2.rst)."""
    l1 = -(-size // (CLUSTER * (CLUSTER // 8)))
    fields = (0x514649FB, 3, 0, 0, 16, size, 0, l1, 3 * CLUSTER, CLUSTER, 1, 0, 0, 0, 0, 0, 4, 104)
    content = bytearray(4 * CLUSTER)
    struct.pack_into(">IIQIIQIIQQIIQQQQII", content, 0, *fields)
    struct.pack_into(">Q", content, CLUSTER, 2 * CLUSTER)
    struct.pack_into(">4H", content, 2 * CLUSTER, 1, 1, 1, 1)
    IMAGE.write_bytes(content)


def end(code, words):
    """Say what was found, end QEMU, and exit."""
    print(words)
    qemu.kill()
    FOLDER.cleanup()
    os._exit(code)


def ended(command):
    """Say that QEMU is gone: the defect if a signal ended it in the save with multifd, else our set-up."""
    code = qemu.wait()
    return end(1 if multifd and code < 0 else 3, f"QEMU has ended at '{command}' with the exit code {code}.")


def ask(command, **arguments):
    """Return the result of a command, and its refusal as text."""
    try:
        print(json.dumps({"execute": command, "arguments": arguments}), file=qemu.stdin, flush=True)
    except OSError:
        return ended(command)
    for line in qemu.stdout:
        answer = json.loads(line)
        if "return" in answer:
            return answer["return"]
        if "error" in answer:
            return answer["error"]["desc"]
    return ended(command)


def wait(done, what):
    """Wait until a function returns something, and return that."""
    limit = time.monotonic() + SECONDS
    while not (found := done()):
        if time.monotonic() > limit:
            end(3, f"{what} does not come in {SECONDS} s.")
        time.sleep(0.1)
    return found


def save(tag):
    """Save the guest; return the error, "" without one."""
    words = ask("snapshot-save", **{"job-id": "job", "tag": tag, "vmstate": "image", "devices": ["image"]})
    if isinstance(words, str):
        return words
    found = wait(lambda: [job for job in ask("query-jobs") if job["status"] == "concluded"], "The job's end")
    ask("job-dismiss", id="job")
    return found[0].get("error", "")


multifd = False
write_image(1 << 30)
qemu = subprocess.Popen(
    [
        *(sys.argv[1], "-machine", "pc", "-accel", "tcg", "-nodefaults", "-display", "none", "-m", "64M"),
        *("-blockdev", f"driver=qcow2,node-name=image,file.driver=file,file.filename={IMAGE}"),
        *("-qmp", "stdio"),
    ],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
)
ask("qmp_capabilities")
time.sleep(1)
if words := save("control"):
    end(3, f"QEMU does not save the guest: {words}")
if words := ask("migrate-set-capabilities", capabilities=[{"capability": "multifd", "state": True}]):
    end(2, f"QEMU refuses the capability: {words}")
multifd = True
words = save("multifd")
end(0, f"QEMU lives, and says: {words or 'nothing'}.")
