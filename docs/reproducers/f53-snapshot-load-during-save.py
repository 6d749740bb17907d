#!/usr/bin/env python3
# F53: `snapshot-load` during a save is refused only after QEMU has reset the guest, which it leaves stopped.
# Usage: f53-snapshot-load-during-save.py QEMU [migration]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Save a guest into an image, begin a background snapshot through a slow sink, and load the guest.

With `migration` the second save is an ordinary migration.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SECONDS = 20
sys.excepthook = lambda *error: (sys.__excepthook__(*error), FOLDER.cleanup(), os._exit(3))
FOLDER = tempfile.TemporaryDirectory(dir="/var/tmp")
IMAGE, CONTENT = Path(FOLDER.name, "image.qcow2"), Path(FOLDER.name, "content")
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


def ask(command, **arguments):
    """Return the result of a command, and its refusal as text."""
    try:
        print(json.dumps({"execute": command, "arguments": arguments}), file=qemu.stdin, flush=True)
    except OSError:
        end(3, f"QEMU has ended before '{command}': {qemu.wait()}.")
    for line in qemu.stdout:
        answer = json.loads(line)
        if "return" in answer:
            return answer["return"]
        if "error" in answer:
            return answer["error"]["desc"]
        if answer.get("event") in ("RESET", "STOP", "RESUME"):
            print("  ", answer["event"])
    return end(3, f"QEMU has ended at '{command}': {qemu.wait()}.")


def read_slowly(listener):
    """Read a save at 6 MiB/s."""
    connection, _ = listener.accept()
    while connection.recv(200_000):
        time.sleep(0.03)


def wait(done, what):
    """Wait until a function returns something, and return that."""
    limit = time.monotonic() + SECONDS
    while not (found := done()):
        if time.monotonic() > limit:
            end(3, f"{what} does not come in {SECONDS} s.")
        time.sleep(0.1)
    return found


def run_job(command):
    """Run a job; return its error, "" without one."""
    print(command)
    words = ask(command, **{"job-id": "job", "tag": "tag", "vmstate": "image", "devices": ["image"]})
    if isinstance(words, str):
        return words
    found = wait(lambda: [job for job in ask("query-jobs") if job["status"] == "concluded"], "The job's end")
    ask("job-dismiss", id="job")
    return found[0].get("error", "")


write_image(1 << 30)
CONTENT.write_bytes(os.urandom(32 << 20))
qemu = subprocess.Popen(
    [
        *(sys.argv[1], "-machine", "pc", "-accel", "tcg", "-nodefaults", "-display", "none", "-m", "64M"),
        *("-blockdev", f"driver=qcow2,node-name=image,file.driver=file,file.filename={IMAGE}"),
        *("-device", f"loader,file={CONTENT},addr=0x1000000,force-raw=on", "-qmp", "stdio"),
    ],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
)
ask("qmp_capabilities")
time.sleep(1)
if words := run_job("snapshot-save"):
    end(3, f"QEMU does not save the guest: {words}")
listener = socket.socket(socket.AF_UNIX)
listener.bind(f"{FOLDER.name}/sink")
listener.listen(1)
threading.Thread(target=read_slowly, args=(listener,), daemon=True).start()
if sys.argv[2:] != ["migration"]:
    setting = {"capability": "background-snapshot", "state": True}
    if words := ask("migrate-set-capabilities", capabilities=[setting]):
        end(2, f"QEMU refuses the capability: {words}")
if words := ask("migrate", uri=f"unix:{FOLDER.name}/sink"):
    end(2, f"QEMU refuses the save: {words}")
wait(lambda: ask("query-migrate").get("status") == "active", "The save")
time.sleep(0.5)
before = ask("query-status")["status"]
words = run_job("snapshot-load")
after = ask("query-status")["status"]
print(f"'snapshot-load' says: {words or 'nothing'}; the guest was '{before}' and is '{after}'.")
if words and after != before:
    end(1, "QEMU refuses to load the guest, and has harmed it.")
end(0, "The guest is as before.")
