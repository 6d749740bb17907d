#!/usr/bin/env python3
# F24: a background snapshot of a guest that QEMU itself has stopped, or not started, aborts QEMU.
# Usage: [ACCEL=kvm] f24-stopped-guest-aborts.py QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Takes up to half a minute.

A guest without a system is brought into each run state by writes to I/O ports, which QEMU's human monitor
makes: a panic, an expired watchdog, a power-off, a full disk; or it is never started, which is all that is
tried where QEMU has no machine `pc`. Each is saved twice, in a QEMU of its own: by an ordinary save as the
control, and by a background snapshot.
"""

import json
import os
import socket
import subprocess
import sys
import time

SECONDS = 20
FULL_DISK = {
    "driver": "blkdebug",
    "node-name": "full",
    "image": {"driver": "null-co", "size": 1 << 20},
    "inject-error": [{"event": "none", "iotype": "write", "errno": 28}],
}
IDE = ("-device", "ide-hd,bus=ide.0,drive=full,werror=stop", "-blockdev", json.dumps(FULL_DISK))
# Run state, QEMU's arguments, and writes to I/O ports as (times, size, port, value).
STATES = (
    ("prelaunch", ("-S",), ()),
    ("guest-panicked", ("-device", "pvpanic", "-action", "panic=pause"), ((1, "b", 0x505, 1),)),
    ("watchdog", ("-device", "ib700", "-action", "watchdog=pause"), ((1, "b", 0x443, 15),)),
    ("shutdown", ("-no-reboot", "-no-shutdown"), ((1, "b", 0x64, 0xFE),)),
    (
        "io-error",
        IDE,
        (
            *((1, "b", port, value) for port, value in ((0x1F6, 0xE0), (0x1F2, 1), (0x1F3, 0), (0x1F4, 0))),
            *((1, "b", port, value) for port, value in ((0x1F5, 0), (0x1F7, 0x30))),
            (256, "h", 0x1F0, 0),
        ),
    ),
)

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))


class Qemu:
    """A QEMU with an empty guest; it ends with the `with` block."""

    def __init__(self, executable, machine, arguments):
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        self.process = subprocess.Popen(
            [
                executable,
                *("-machine", machine, "-nodefaults", "-display", "none", "-m", "256"),
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

    def wait(self, command, wanted):
        """Ask until the status is one of `wanted`; return it, or None if QEMU has ended."""
        end = time.monotonic() + SECONDS
        while (answer := self.ask(command)) is not None and answer.get("status") not in wanted:
            if time.monotonic() > end:
                raise RuntimeError(f"{command} still gives {answer}")
            time.sleep(0.02)
        return answer and answer["status"]


def saved(executable, machine, state, arguments, writes, background):
    """Save a guest in a run state; return how the save ended, None if QEMU aborted, or a refusal as text."""
    with Qemu(executable, machine, arguments) as qemu:
        # The firmware finds its devices first.
        time.sleep(0 if state == "prelaunch" else 2)
        for times, size, port, value in writes:
            for _ in range(times):
                qemu.ask("human-monitor-command", **{"command-line": f"o /{size} {port:#x} {value:#x}"})
        qemu.wait("query-status", (state,))
        on = [{"capability": "background-snapshot", "state": background}]
        refusal = qemu.ask("migrate-set-capabilities", capabilities=on) or qemu.ask(
            "migrate", uri="exec:cat > /dev/null"
        )
        return refusal or qemu.wait("query-migrate", ("completed", "failed"))


executable = sys.argv[1]
text = subprocess.run([executable, "-machine", "help"], capture_output=True, text=True, check=True).stdout
known = {line.split()[0] for line in text.splitlines()[1:]}
machine = next((name for name in ("pc", "virt", "pseries", "s390-ccw-virtio") if name in known), None)
if machine is None:
    print("This QEMU has no machine that this script knows.")
    sys.exit(2)
shows = False
for case in STATES if machine == "pc" else STATES[:1]:
    control, found = (saved(executable, machine, *case, background) for background in (False, True))
    if control != "completed":
        raise RuntimeError(f"the control of '{case[0]}' ended as '{control}'")
    print(f"{case[0]}: ordinary save {control}, background snapshot {found or 'ABORTED QEMU'}")
    if found not in (None, "completed"):
        sys.exit(2)
    shows |= found is None
sys.exit(shows)
