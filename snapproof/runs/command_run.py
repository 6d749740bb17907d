"""Makes the Run of a command that runs scenarios by itself, without Avocado."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from snapproof.runs.events import EVENTS_FILE
from snapproof.runs.options import StackOptions
from snapproof.runs.stack import cache_at
from tests_functional.lib.guest import Stack
from tests_functional.lib.run import Run


@dataclass(frozen=True)
class CommandRuns:
    """What all Runs of one command have in common.

    Attributes:
        options: of the command line.
        environment: what every result says about host, QEMU and guest image.
        seed: of the writers.
        events: folder of the event file.
        seconds: time limit of a Run.
        keep: whether files of what passes are kept.
    """

    options: StackOptions
    environment: Mapping[str, Any]
    seed: int
    events: Path
    seconds: float
    keep: bool

    def run(self, name: str, stack: Stack, folder: Path) -> Run:
        """Return a Run whose time begins now.

        Args:
            name: of what is run, for messages.
            stack: QEMU, guest and accelerator.
            folder: of its files.
        """
        return Run(
            name=name,
            stack=stack,
            host_environment=self.environment,
            folder=folder,
            events=self.events / EVENTS_FILE,
            cache=cache_at(self.options.cache),
            mirror=self.options.mirror,
            pattern="random",
            seed=self.seed,
            repeat=1,
            keep=self.keep,
            deadline=Deadline(self.seconds),
        )
