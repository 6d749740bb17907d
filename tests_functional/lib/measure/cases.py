"""Defines the parameters of a benchmark: the way of saving, the writer in the guest, and the sink."""

from __future__ import annotations

import enum
from dataclasses import dataclass

GIVE_UP_FACTOR = 3
"""A pre-copy that has sent this many times the guest's RAM will not converge any more."""

AROUND_SECONDS = 1.0
"""How long the write rate is recorded before and after a save."""


class Way(enum.Enum):
    """How a guest is saved."""

    BACKGROUND_EXEC = "background-exec"
    BACKGROUND_FILE = "background-file"
    STOP_AND_SAVE = "stop-and-save"
    SAVEVM = "savevm"
    PRECOPY_FILE = "precopy-file"

    @property
    def background(self) -> bool:
        """Whether it is a background snapshot."""
        return self in (Way.BACKGROUND_EXEC, Way.BACKGROUND_FILE)

    @property
    def makes_stream(self) -> bool:
        """Whether it writes a vmstate file, which can be judged."""
        return self is not Way.SAVEVM


class Writer(enum.Enum):
    """The writer in the guest during the save. Each fills the same share of RAM, so each save is as large."""

    IDLE = "idle"
    TENTH = "10%"
    ALL = "all"
    HOT = "hot"


@dataclass(frozen=True)
class Sink:
    """The sink of a save.

    Attributes:
        name: `unlimited` or `throttled`.
        mib_per_second: the steady rate at which it takes the stream; 0 for no limit.
    """

    name: str
    mib_per_second: float = 0.0


UNLIMITED = Sink("unlimited")


def throttled(mib_per_second: float) -> Sink:
    """Return a sink that takes `mib_per_second` MiB each second."""
    return Sink("throttled", mib_per_second)


def why_not(way: Way, sink: Sink) -> str:
    """Return why a way cannot be measured with a sink, "" where it can."""
    if not sink.mib_per_second:
        return ""
    if way in (Way.BACKGROUND_FILE, Way.SAVEVM):
        return "QEMU writes the file itself, so nothing can be put in between to slow it down."
    return ""
