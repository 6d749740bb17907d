"""Reads the list of QEMU's iterable handlers other than RAM, each with the test of its state, or why none."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LIST = Path(__file__).with_suffix(".toml")
"""The list; it says what each field means."""


@dataclass(frozen=True)
class Handler:
    """An iterable handler of QEMU, with the fields of the list."""

    section: str
    source: str
    where: str
    test: str = ""
    why_untested: str = ""
    empty_bytes: int = 0


@cache
def handlers() -> Mapping[str, Handler]:
    """Return the handlers by the name of their sections."""
    entries = tomllib.loads(LIST.read_text(encoding="utf-8"))["handler"]
    return {entry["section"]: Handler(**entry) for entry in entries}


def handler_of(section: str, known: Mapping[str, Handler]) -> Handler | None:
    """Return the handler of a section's name, None if it is not among those known.

    The name of a device's section begins with the device's path (QEMU hw/vfio/migration.c).
    """
    return known.get(section) or known.get(section.rpartition("/")[2])
