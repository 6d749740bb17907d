#!/usr/bin/env python3
# F61: `max-bandwidth`, set during a background snapshot, makes the guest wait and QEMU spin
# Usage: f61-bandwidth-in-mid-save.py QEMU [migration]
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Limit the bandwidth to 1 MiB/s, before a background snapshot and while RAM is saved.

Before, it changes nothing. In mid-save the limit is kept, and QEMU's thread does not sleep while it keeps
it: it runs or waits for a processor. The control, with `migration`, is an ordinary migration, which sleeps.
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
sys.excepthook = lambda *error: (sys.__excepthook__(*error), FOLDER.cleanup(), os._exit(3))
FOLDER = tempfile.TemporaryDirectory(dir="/var/tmp")
SNAPSHOT = "migration" not in sys.argv[2:]
CONTENT = Path(FOLDER.name, "content")
CONTENT.write_bytes(os.urandom(32 << 20))


def end(code, words):
    """Say what was found, end QEMU, and exit."""
    print(words)
    qemu.kill()
    FOLDER.cleanup()
    os._exit(code)


def ask(command, **arguments):
    """Give a command; return its result, its refusal as text, None if QEMU has ended."""
    try:
        print(json.dumps({"execute": command, "arguments": arguments}), file=monitor, flush=True)
        while line := monitor.readline():
            found = json.loads(line)
            if "return" in found or "error" in found:
                return found["return"] if "return" in found else found["error"]["desc"]
    except ConnectionError:
        pass
    return None


def capability(on):
    """Switch background snapshots on or off."""
    setting = {"capability": "background-snapshot", "state": on}
    return ask("migrate-set-capabilities", capabilities=[setting])


ours, theirs = socket.socketpair()
qemu = subprocess.Popen(
    [
        sys.argv[1],
        *("-machine", "pc", "-accel", "tcg", "-nodefaults", "-display", "none", "-m", "64M"),
        *("-name", "guest,debug-threads=on", "-device", f"loader,file={CONTENT},addr=0x1000000,force-raw=on"),
        *("-chardev", f"socket,fd={theirs.fileno()},id=monitor", "-mon", "chardev=monitor,mode=control"),
    ],
    stdin=subprocess.DEVNULL,
    pass_fds=[theirs.fileno()],
)
theirs.close()
ours.settimeout(SECONDS)
monitor = ours.makefile("rw")
if not monitor.readline():
    end(3, "QEMU does not start.")
ask("qmp_capabilities")
time.sleep(1)
if SNAPSHOT and capability(True) != {}:
    end(2, "QEMU refuses the capability background-snapshot.")
LIMIT = {"max-bandwidth": 1 << 20}
WATCHED = 5
# Names of the thread that saves, in QEMU 7.2 to 11.1 (migration/migration.c).
NAMES = ("bg_snapshot", "mig/snapshot", "mig/src/main", "live_migration")


def busy_seconds():
    """Return how long QEMU's thread that saves ran or waited for a processor."""
    for thread in Path(f"/proc/{qemu.pid}/task").iterdir():
        if (thread / "comm").read_text().strip() in NAMES:
            return sum(int(word) for word in (thread / "schedstat").read_text().split()[:2]) / 1e9
    return end(3, "QEMU has no thread that saves.")


def wait_for(*wanted):
    """Wait until a save is in one of some states; return the seconds that it took."""
    begun = time.monotonic()
    while ask("query-migrate").get("status") not in wanted:
        if time.monotonic() - begun > SECONDS:
            end(3, f"The save is {ask('query-migrate')}.")
        time.sleep(0.02)
    return time.monotonic() - begun


if SNAPSHOT:
    ask("migrate-set-parameters", **LIMIT)
    ask("migrate", uri="exec:cat > /dev/null")
    print(f"Limited to 1 MiB/s before it began, the snapshot of 32 MiB takes {wait_for('completed'):.1f} s.")
    time.sleep(0.5)
    ask("migrate-set-parameters", **{"max-bandwidth": 1 << 34})
ask("migrate", uri="exec:sleep 0.5; cat > /dev/null")
wait_for("active")
ask("migrate-set-parameters", **LIMIT)
time.sleep(1)
before, begun = busy_seconds(), time.monotonic()
time.sleep(WATCHED)
status = ask("query-migrate").get("status")
if status != "active":
    end(0, f"Limited to 1 MiB/s in mid-save, the save is '{status}' after {WATCHED + 1} s.")
used = (busy_seconds() - before) / (time.monotonic() - begun)
words = (
    f"Limited to 1 MiB/s in mid-save, the save goes on, and its thread is awake for {used:.0%} of the time."
)
end(1 if used > 0.5 else 0, words)
