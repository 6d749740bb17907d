"""Stands in for virsh: passes commands on to a fake VM's QMP socket, as libvirt does."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path

_PROGRAM = """\
#!/bin/sh
exec {python} -S {module} {folder} "$@"
"""
UUID = "6d2c7a1e-0000-4000-8000-0000000000f1"


def make_virsh(folder: Path) -> Path:
    """Write the program; the VM's socket is `qmp` in the folder, libvirt is away while `away` is there.

    Each line of the file `events` is printed as virsh prints an event. `calls` gets the words of each call.
    """
    program = folder / "virsh"
    text = _PROGRAM.format(python=sys.executable, module=Path(__file__), folder=folder)
    program.write_text(text)
    program.chmod(0o755)
    return program


def main(folder: Path, words: list[str]) -> int:
    """Play virsh and return its exit code."""
    with (folder / "calls").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    name, *rest = [word for word in words if word != "--quiet"]
    if (folder / "away").exists():
        print("error: failed to connect to the hypervisor", file=sys.stderr)
        print("error: Failed to connect socket to 'x': No such file or directory", file=sys.stderr)
        return 1
    if name == "qemu-monitor-event":
        return _print_events(folder)
    if name == "qemu-monitor-command":
        return _pass_on(folder, rest)
    if name in ("restore", "destroy"):
        return _copy(folder, name, rest)
    print({"domid": "5", "domuuid": UUID, "domstate": "running"}[name])
    return 0


def _copy(folder: Path, name: str, words: list[str]) -> int:
    """Restore or end the domain whose name is in the file `copy`; `refusal` is why it is not restored."""
    copy, refusal = folder / "copy", folder / "refusal"
    if name == "restore":
        if refusal.exists():
            print(f"error: Failed to restore domain from {words[0]}", file=sys.stderr)
            print(f"error: {refusal.read_text()}", file=sys.stderr)
            return 1
        copy.write_text(Path(words[0]).read_text())
        return 0
    if not copy.exists() or copy.read_text() != words[0]:
        print(f"error: failed to get domain '{words[0]}'", file=sys.stderr)
        return 1
    copy.unlink()
    return 0


def _print_events(folder: Path) -> int:
    printed = 0
    while not (folder / "away").exists():
        lines = (folder / "events").read_text().splitlines() if (folder / "events").exists() else []
        for line in lines[printed:]:
            print(line, flush=True)
        printed = len(lines)
        time.sleep(0.02)
    print("error: Disconnected from qemu:///system due to end of file", file=sys.stderr)
    return 1


def _pass_on(folder: Path, words: list[str]) -> int:
    if (folder / "gone").exists():
        print("error: failed to get domain '5'", file=sys.stderr)
        return 1
    domain, *passed, text = words
    command = json.loads(text)
    if "id" in command:
        print("error: internal error: Unable to append command 'id' string", file=sys.stderr)
        return 1
    assert domain == "5", "the number is used"
    with socket.socket(socket.AF_UNIX) as vm:
        vm.connect(str(folder / "qmp"))
        answers = vm.makefile("r")
        answers.readline()
        message = (json.dumps({**command, "id": "libvirt-1"}) + "\n").encode()
        socket.send_fds(vm, [message], [int(number) for number in passed[1::2]])
        while "event" in (answer := json.loads(answers.readline())):
            pass
        print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
