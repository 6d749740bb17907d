"""Stands in for `cat` at the ends of a save and a restore, and plants a fault there.

Run as a program by the script that `planted.py` writes: the name of a fault, then the arguments of `cat`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

from tests_functional.devices.passage import MACHINE_ALONE
from tests_functional.devices.planted import ACTED, MONITOR, QEMU_PID, SECTION, Act, Place
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import open_source

_STANDARD_OUTPUT = "/proc/self/fd/1"
# The stream begins with less than this before RAM.
_BEHIND_T0 = 1 << 20
_STOP_SECONDS = 20.0


def main(arguments: list[str]) -> int:
    """Copy a stream as `cat` does, with a fault if this is the place for it; return the exit code."""
    act, place, *files = arguments
    file = Path(files[0]) if files else Path(_STANDARD_OUTPUT).readlink()
    # The guest without the device must get to its end.
    if MACHINE_ALONE not in file.parts and _place(files, file) == place:
        (Path(os.environ[ACTED]) / "acted").touch()
        return _faulty(Act(act), files)
    with file.open("rb") if files else sys.stdin.buffer as source:
        shutil.copyfileobj(source, sys.stdout.buffer)
    return 0


def _place(files: list[str], end: Path) -> str:
    if files:
        return Place.LOAD
    return {"source": Place.SAVE, "restored": Place.SAVE_AGAIN}.get(end.parent.name, "")


def _faulty(act: Act, files: list[str]) -> int:
    if act is Act.REFUSE:
        return 1
    if act is Act.KILL:
        os.kill(int(os.environ[QEMU_PID]), signal.SIGABRT)
        return 1
    if act is Act.STOP:
        return _stop()
    data = bytearray(Path(files[0]).read_bytes() if files else sys.stdin.buffer.read())
    if act is Act.CUT:
        data = data[: len(data) // 2]
    else:
        copy = Path(os.environ[ACTED]) / "stream"
        copy.write_bytes(data)
        data[_offset(act, copy)] ^= 1
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return 0


def _stop() -> int:
    """Stop the guest when a part of the stream, and so of RAM, has come; pass the whole stream on."""
    sys.stdout.buffer.write(sys.stdin.buffer.read(_BEHIND_T0))
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(_STOP_SECONDS)
        monitor.connect(f"\0{MONITOR}{os.environ[QEMU_PID]}")
        with monitor.makefile("rw") as lines:
            lines.readline()
            for command in ("qmp_capabilities", "stop"):
                print(json.dumps({"execute": command}), file=lines, flush=True)
                while "return" not in json.loads(lines.readline()):
                    """Read past the events."""
    shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)
    return 0


def _offset(act: Act, stream: Path) -> int:
    """Return the file offset of a byte of the device, or of memory."""
    with open_source(stream) as source:
        index = read_index(source)
    if act is Act.FLIP_RAM:
        main = max(index.blocks, key=lambda block: block.used_length)
        return int(main.page_source.max())
    (section,) = (one for one in index.devices if one.idstr.endswith(SECTION))
    # The device's own memory, which nothing but the guest's driver looks at, is the last of its state.
    return section.data_end - 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
