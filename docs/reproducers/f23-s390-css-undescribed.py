#!/usr/bin/env python3
# F23: the vmdesc of an s390x machine describes a quarter of the state of its channel subsystem.
# Usage: f23-s390-css-undescribed.py QEMU-SYSTEM-S390X
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
"""Needs no guest and no background snapshot. Takes 5 s.

It saves an idle machine, and looks whether the section of `s390_css` ends where the description says.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEVICE, FOOTER, MACHINE = b"s390_css", 0x7E, ("-machine", "s390-ccw-virtio")
# Behind the name: instance and version, four bytes each.
HEADER_BYTES = 8

sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(3))


def saved(executable, path):
    """Save an idle machine into a file; return what QEMU printed."""
    process = subprocess.Popen(
        [
            executable,
            "-nodefaults",
            "-display",
            "none",
            "-accel",
            "tcg",
            "-m",
            "64",
            "-S",
            "-qmp",
            "stdio",
            *MACHINE,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    save = {"execute": "migrate", "arguments": {"uri": f"exec:cat > {path}"}}
    steps = (({"execute": "qmp_capabilities"}, 1), (save, 3), ({"execute": "quit"}, 0))
    try:
        for command, seconds in steps:
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
            time.sleep(seconds)
    except BrokenPipeError:
        # It has ended; its output says why.
        pass
    return process.communicate(timeout=60)[0]


def described(stream):
    """Return the description of the device."""
    at = max(stream.rfind(b'{"configuration"'), stream.rfind(b'{"page_size"'))
    content, _ = json.JSONDecoder().raw_decode(stream[at:].decode("latin-1"))
    return next(device for device in content["devices"] if device["name"].encode() == DEVICE)


with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "vmstate"
    words = saved(sys.argv[1], file)
    if "unsupported machine type" in words:
        print("This QEMU has no machine type s390-ccw-virtio.")
        sys.exit(2)
    stream = file.read_bytes()
device = described(stream)
length = sum(field["size"] * field.get("array_len", 1) for field in device["fields"])
start = stream.index(bytes([len(DEVICE)]) + DEVICE) + 1 + len(DEVICE) + HEADER_BYTES
right = stream[start + length] == FOOTER
print(f"s390_css: {length} bytes are described, and the section {'ends' if right else 'does not end'} there.")
sys.exit(0 if right else 1)
