"""The stack of a run as a file: how the command tells its tests what to run on, and a record of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from guest_images.image import GuestImage
from guest_images.packages import InputRecord
from tests_functional.scenarios.guest import Stack
from tests_functional.scenarios.outcome import write_atomically

STACK_FILE = "stack.json"


def save_stack(stack: Stack, environment: dict[str, Any], folder: Path) -> None:
    """Write a stack, with every input of its guest image by name, version and SHA256.

    Args:
        stack: what the run's tests use.
        environment: what every result of the run says, e.g. host kernel and QEMU version.
        folder: the results folder.

    Raises:
        OSError: the folder cannot be written.
    """
    data = {"environment": environment, **asdict(stack)}
    write_atomically(folder / STACK_FILE, json.dumps(data, indent=1, default=str) + "\n")


def load_stack(folder: Path) -> tuple[Stack, dict[str, Any]]:
    """Read back what `save_stack` wrote: the stack and the environment."""
    data = json.loads((folder / STACK_FILE).read_text(encoding="utf-8"))
    image = data["image"]
    image["kernel"], image["initrd"] = Path(image["kernel"]), Path(image["initrd"])
    image["ssh_private_key"] = Path(image["ssh_private_key"])
    image["manifest"] = tuple(InputRecord(**record) for record in image["manifest"])
    stack = Stack(
        executable=Path(data["executable"]),
        image=GuestImage(**image),
        accel=data["accel"],
        ram_mib=data["ram_mib"],
        vcpus=data["vcpus"],
        coverage=data["coverage"],
        machine=data["machine"],
        extra=tuple(data["extra"]),
        capabilities=tuple(data["capabilities"]),
    )
    return stack, data["environment"]
