"""Holds one run of a test (its stack, folder, log and deadline) and reports its progress."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from guest_images.cache import Cache
from guest_images.provisioning import Provisioning
from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.configuration import MIB
from tests_functional.lib.guest import Stack
from tests_functional.lib.machines import machine_environment
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.result_files import HEAVY_FILES

# Room for a snapshot, its golden image and logs.
_ROOM_FACTOR = 2.2
_FULL_MIB = 16


@dataclass(frozen=True)
class Run:
    """What a scenario needs besides the verbs.

    Attributes:
        name: of the test, for messages.
        stack: QEMU, guest and accelerator.
        host_environment: what every result of the run says about host, QEMU and guest image.
        folder: the test's own folder in the results.
        events: the JSON Lines file that progress goes to.
        cache: what the test compiles or fetches for itself is kept there.
        mirror: a Debian mirror for it, None for the machine's own apt sources.
        pattern: of the writers.
        seed: of the writers.
        repeat: snapshot-restore cycles in a row, in the same source guest.
        keep: keep snapshots and golden images even when all is well.
        deadline: of the whole test.
    """

    name: str
    stack: Stack
    host_environment: Mapping[str, Any]
    folder: Path
    events: Path
    cache: Cache
    mirror: str | None
    pattern: str
    seed: int
    repeat: int
    keep: bool
    deadline: Deadline

    @property
    def provisioning(self) -> Provisioning:
        """Return how the test gets what it compiles or fetches for itself."""
        return Provisioning(self.cache, self.say, self.mirror)

    def with_arguments(self, arguments: Sequence[str]) -> Run:
        """Return the run with further arguments for each QEMU that plays the guest."""
        return replace(self, stack=replace(self.stack, extra=(*self.stack.extra, *arguments)))

    def environment(self) -> dict[str, Any]:
        """Return the environment of this test's result, enough to repeat it."""
        return {
            **self.host_environment,
            "qemu_executable": str(self.stack.executable),
            "accelerator": self.stack.accel,
            "guest_image": self.stack.image.name,
            "guest_image_digest": self.stack.image.digest,
            "guest_architecture": self.stack.image.architecture.name,
            **machine_environment(self.stack),
            "ssh_host_key": self._host_key(),
            "ram_mib": self.stack.ram_mib,
            "coverage": self.stack.coverage,
            "vcpus": self.stack.vcpus,
            "pattern": self.pattern,
            "seed": self.seed,
        }

    def _host_key(self) -> str:
        """Return the host key that the guest had to have, and where it came from."""
        if self.stack.image.bare:
            return ""
        identity = self.stack.identity()
        if identity.host_key:
            return f"{identity.host_key} (given)"
        return f"{identity.pinned()} (the first seen, pinned from then on)" if identity.pinned() else ""

    def say(self, text: str) -> None:
        """Write a line of progress to the test's log and to the command."""
        self._tell("step", text=text)
        self._log(text)

    def begun(self) -> None:
        """Report to the event file that this test has begun."""
        self._tell("test-started")

    def ended(self, outcome: Outcome) -> None:
        """Report the outcome to the test's log and to the event file."""
        self._tell(
            "test-ended",
            status=outcome.status.value,
            sentence=outcome.sentence,
            seconds=round(outcome.seconds, 3),
        )
        self._log(f"{outcome.status.value}: {outcome.sentence}")

    def _tell(self, kind: str, **content: str | float) -> None:
        event = {"time": round(time.time(), 3), "type": kind, "test": self.name, **content}
        line = (json.dumps(event) + "\n").encode()
        # One write of one line, so that tests that run side by side do not mix.
        descriptor = os.open(self.events, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def _log(self, text: str) -> None:
        with (self.folder / "test.log").open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    def require_room(self) -> None:
        """Check that a snapshot and its golden image fit on the disk.

        Raises:
            SetupBroken: they do not.
        """
        needed = int(self.stack.total_mib * _ROOM_FACTOR)
        free = free_mib(self.folder)
        if free < needed:
            raise SetupBroken(
                f"The disk that holds '{self.folder}' has {free} MiB free and this test needs {needed} MiB; "
                "name a folder on another disk with --results."
            )

    def disk_full(self) -> bool:
        """Return whether the results' disk is so full that a failed save may not be QEMU's fault."""
        return free_mib(self.folder) < _FULL_MIB

    def discard(self, folder: Path) -> None:
        """Delete a cycle's heavy files, unless they are to be kept."""
        if not self.keep:
            remove_heavy(folder)


def free_mib(folder: Path) -> int:
    """Return the MiB that an ordinary user can still write on the disk of a folder that is to be there."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free // MIB


def remove_heavy(folder: Path) -> None:
    """Delete the snapshots, golden images and disks below a folder, and nothing else."""
    for place in [place for pattern in HEAVY_FILES for place in folder.rglob(pattern)]:
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)
