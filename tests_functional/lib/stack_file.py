"""Writes and reads stack.json, by which the command hands the stack to its tests and records it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from guest_images.guests.image import GuestImage
from guest_images.packages.unpacked import InputRecord
from harness.qemu.architectures import find_architecture
from harness.qemu.configuration import Flash
from harness.qemu.disk import Disk
from tests_functional.lib.guest import Stack
from tests_functional.lib.machines import with_flash, with_guest
from tests_functional.lib.outcome import write_atomically
from tests_functional.lib.result_files import STACK_FILE


def save_stack(
    stack: Stack,
    environment: dict[str, Any],
    folder: Path,
    guests: Sequence[GuestImage] = (),
    uefi: Flash | None = None,
    emulators: Mapping[str, Path] | None = None,
) -> None:
    """Write a stack, with every input of its guest image by name, version and SHA256.

    Args:
        stack: what the run's tests use.
        environment: what every result of the run says, e.g. host kernel and QEMU version.
        folder: the results folder.
        guests: further guests, which tests that ask for one by name use instead.
        uefi: Debian's UEFI firmware, for tests that ask for it.
        emulators: QEMUs of further guests of other architectures, by the program's name.

    Raises:
        OSError: the folder cannot be written.
    """
    others = {image.name: asdict(image) for image in guests}
    data = {
        "environment": environment,
        **asdict(stack),
        "guests": others,
        "uefi": asdict(uefi) if uefi else None,
        "emulators": dict(emulators or {}),
    }
    write_atomically(folder / STACK_FILE, json.dumps(data, indent=1, default=str) + "\n")


def load_stack(folder: Path, guest: str = "", uefi: bool = False) -> tuple[Stack, dict[str, Any]]:
    """Read back what `save_stack` wrote: the stack and the environment.

    Args:
        folder: the results folder.
        guest: one of the further guests, to take the place of the run's.
        uefi: whether it has Debian's UEFI firmware in place of the run's.
    """
    data = json.loads((folder / STACK_FILE).read_text(encoding="utf-8"))
    made = {
        "executable": Path(data["executable"]),
        "image": _image(data["image"]),
        "extra": tuple(data["extra"]),
        "user_arguments": tuple(data["user_arguments"]),
        "flash": _flash(data["flash"]),
        "host_key_file": Path(data["host_key_file"]) if data["host_key_file"] else None,
        "capabilities": tuple(data["capabilities"]),
    }
    stack = Stack(**{one.name: data[one.name] for one in fields(Stack)} | made)
    if guest:
        emulators = {program: Path(path) for program, path in data["emulators"].items()}
        stack = with_guest(stack, _image(data["guests"][guest]), emulators)
    flash = _flash(data["uefi"]) if uefi else None
    return (with_flash(stack, flash) if flash else stack), data["environment"]


def _flash(data: dict[str, str] | None) -> Flash | None:
    return Flash(data["name"], Path(data["code"]), Path(data["variables"])) if data else None


def _image(data: dict[str, Any]) -> GuestImage:
    paths = {
        name: Path(data[name]) if data[name] else None
        for name in ("kernel", "initrd", "ssh_private_key", "agent", "firmware")
    }
    disk = data["disk"]
    return GuestImage(
        **{
            **data,
            **paths,
            "manifest": tuple(InputRecord(**record) for record in data["manifest"]),
            "disk": Disk(**{**disk, "path": Path(disk["path"])}) if disk else None,
            "architecture": find_architecture(data["architecture"]["name"]),
        }
    )
