#!/usr/bin/env python3
# F56: an SD host controller (sdhci-pci) has lost its PCI configuration in every restored guest.
# Usage: f56-sdhci-pci-loses-its-address.py QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Give an SD controller and another device addresses as firmware does, save, restore, and look at both."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS = 20
FOLDER = tempfile.TemporaryDirectory(dir="/var/tmp")
FILE = Path(FOLDER.name, "vmstate")
running = []
sys.excepthook = lambda *error: (sys.__excepthook__(*error), end(3, "This script does not work."))

# The slot of each device, and what its configuration space is given: the address of its registers (0x10), and
# that it answers there and may write to guest RAM (0x04).
DEVICES = {"sdhci-pci": 5, "virtio-scsi-pci": 6}
GIVEN = {0x10: 0xE0000000, 0x04: 0x06}


def end(code, words):
    """Say what was found, end all QEMUs, and exit."""
    print(words, flush=True)
    for qemu in running:
        qemu.kill()
    FOLDER.cleanup()
    os._exit(code)


class Qemu:
    """One QEMU with both devices, steered by its QMP monitor."""

    def __init__(self, *arguments):
        """Start it."""
        devices = [f"{name},addr={slot}" for name, slot in DEVICES.items()]
        self.process = subprocess.Popen(
            [
                *(
                    sys.argv[1],
                    "-machine",
                    "pc",
                    "-accel",
                    "tcg",
                    "-nodefaults",
                    "-display",
                    "none",
                    "-m",
                    "64M",
                ),
                *(text for device in devices for text in ("-device", device)),
                *("-S", "-qmp", "stdio", *arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(self.process)
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        """Return the result of a command."""
        try:
            print(
                json.dumps({"execute": command, "arguments": arguments}), file=self.process.stdin, flush=True
            )
        except OSError:
            end(3, f"QEMU has ended at '{command}'.")
        for line in self.process.stdout:
            answer = json.loads(line)
            if "error" in answer:
                end(3, f"QEMU refuses '{command}': {answer['error']['desc']}.")
            if "return" in answer:
                return answer["return"]
        return end(3, f"QEMU has ended at '{command}' with the exit code {self.process.wait()}.")

    def monitor(self, line):
        """Return what the human monitor says to a line."""
        return self.ask("human-monitor-command", **{"command-line": line})

    def select(self, slot, register):
        """Address a register of configuration space."""
        self.monitor(f"o /w 0xcf8 {0x80000000 | slot << 11 | register:#x}")

    def write(self, slot, register, value):
        """Write a register of configuration space."""
        self.select(slot, register)
        self.monitor(f"o /w 0xcfc {value:#x}")

    def read(self, slot, register):
        """Return what a register has of GIVEN: 16 bits of 0x04, and of 0x10 what is no kind of address."""
        self.select(slot, register)
        found = int(self.monitor("i /w 0xcfc").split("=")[1].split()[0], 16)
        return found & 0xFFFF if register == 0x04 else found & ~0xF

    def configuration(self):
        """Return the registers in GIVEN of each device."""
        return {
            name: {register: self.read(slot, register) for register in GIVEN}
            for name, slot in DEVICES.items()
        }

    def wait(self, done, what):
        """Wait for a state of the save or of the restore."""
        limit = time.monotonic() + SECONDS
        while not done(self):
            if time.monotonic() > limit:
                end(3, f"{what} does not end in {SECONDS} s.")
            time.sleep(0.1)


def has_devices():
    """Return whether QEMU was built with the devices."""
    words = [sys.argv[1], "-machine", "none", "-device", "help"]
    found = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
    return all(f'name "{name}"' in found for name in DEVICES)


if not has_devices():
    end(2, f"This QEMU has not all of the devices {', '.join(DEVICES)}.")
source = Qemu()
for number, slot in enumerate(DEVICES.values()):
    for register, value in GIVEN.items():
        source.write(slot, register, value + (number << 20 if register == 0x10 else 0))
before = source.configuration()
if before["sdhci-pci"] != GIVEN:
    end(3, f"The device does not take its address: {before}.")
source.ask("migrate", uri=f"exec:cat > {FILE}")
source.wait(lambda qemu: qemu.ask("query-migrate")["status"] == "completed", "The save")
restored = Qemu("-incoming", f"exec:cat {FILE}")
restored.wait(lambda qemu: qemu.ask("query-migrate").get("status") == "completed", "The restore")
after = restored.configuration()
for name in DEVICES:
    print(
        f"{name}: address and command {[hex(value) for value in before[name].values()]} before,"
        f" {[hex(value) for value in after[name].values()]} after"
    )
if after["virtio-scsi-pci"] != before["virtio-scsi-pci"]:
    end(3, "The other device has lost its address too, so this restore says nothing.")
end(int(after["sdhci-pci"] != before["sdhci-pci"]), "The address of the SD controller is compared.")
