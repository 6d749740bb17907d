#!/usr/bin/env python3
# F36: a guest that ejects a device with memory of its own during a background snapshot aborts QEMU.
# Usage: [ACCEL=kvm] f36-ejected-device-aborts.py QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Takes up to half a minute.

A guest without a system has a second graphics card. While its RAM is saved, it ejects the card as an
operating system does: by a write to a port of ACPI's PCI hot-plug, which QEMU's human monitor makes here. The
control is the same during an ordinary migration.
"""

import json
import os
import socket
import subprocess
import sys
import time

SECONDS, SETTLE_SECONDS = 30, 5
SLOT = 5
CARD = ("-device", f"secondary-vga,id=card,addr={SLOT:#x}")
# QEMU hw/acpi/pcihp.c: the registers that choose a bus and eject the devices of its slots.
BUS_PORT, EJECT_PORT = 0xAE10, 0xAE08
# Slow, but never at a standstill: QEMU frees a device only once the save has gone on for a while. RAM of
# 64 MiB is more than a pipe holds, even if all of its pages are zero.
SINK = (
    "exec:i=0; while [ $i -lt 50 ]; do head -c 4096 > /dev/null; sleep 0.1; i=$((i+1)); done; cat > /dev/null"
)

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

    def hmp(self, line):
        """Run a command of the human monitor."""
        return self.ask("human-monitor-command", **{"command-line": line})

    def wait_status(self, wanted):
        """Ask until a migration has a status; return it, or None if QEMU has ended."""
        end = time.monotonic() + SECONDS
        while (answer := self.ask("query-migrate")) is not None and answer.get("status") not in wanted:
            if time.monotonic() > end:
                raise RuntimeError(f"the save is still {answer}")
            time.sleep(0.02)
        return answer and answer["status"]


def has_card(qemu):
    """Return whether the guest has the card; None if QEMU has ended."""
    buses = qemu.ask("query-pci")
    return buses and any(device["qdev_id"] == "card" for bus in buses for device in bus["devices"])


def saved(executable, background):
    """Save while the card is ejected; return how the save ended, None if QEMU aborted."""
    with Qemu(executable, *CARD) as qemu:
        # The firmware finds its devices first.
        time.sleep(2)
        on = [{"capability": "background-snapshot", "state": background}]
        refusal = qemu.ask("migrate-set-capabilities", capabilities=on) or qemu.ask("migrate", uri=SINK)
        if refusal:
            print(f"QEMU refuses: {refusal}")
            sys.exit(2)
        qemu.wait_status(("active",))
        qemu.hmp(f"o /w {BUS_PORT:#x} 0")
        qemu.hmp(f"o /w {EJECT_PORT:#x} {1 << SLOT:#x}")
        if not background:
            # QEMU goes on counting the ejected memory as not saved, and would save the rest for ever.
            qemu.ask("migrate-set-parameters", **{"downtime-limit": 30_000})
        if has_card(qemu):
            print("The guest may not eject the card during a save.")
            return "completed"
        status = qemu.wait_status(("completed", "failed"))
        # QEMU says "completed" before it drops what it holds of the card.
        end = time.monotonic() + SETTLE_SECONDS
        while qemu.ask("query-status") is not None:
            if time.monotonic() > end:
                return status
            time.sleep(0.1)
        return None


executable = sys.argv[1]
text = subprocess.run([executable, "-machine", "help"], capture_output=True, text=True, check=True).stdout
if "\npc " not in text:
    print("This QEMU has no machine 'pc'.")
    sys.exit(2)
control, found = (saved(executable, background) for background in (False, True))
if control is None:
    raise RuntimeError("the control aborted QEMU")
print(f"A device ejected during an ordinary migration: {control}.")
print(f"During a background snapshot: {found or 'QEMU ABORTED'}.")
sys.exit(found is None)
