"""Makes problems of what differs between a file and the one that a restored guest was saved to again."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from pathlib import Path

from harness.codes import Code
from validators.checks import Problem
from validators.vmstate.diff import Difference
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import open_source
from validators.vmstate.stream_diff import FieldChange

_INDEX = re.compile(r"\[\d+\]")
_SECTION = re.compile(r".*? \(\d+\)")
# Of a value in a sentence; a device's buffer may have thousands of bytes.
_VALUE_LENGTH = 48


def difference_problems(difference: Difference, device: str) -> list[Problem]:
    """Return a problem for each field that differs, for each part of the stream, and for each RAMBlock.

    The elements of an array count as one field, which is called by the array's name.
    """
    problems = [
        Problem(Code.DEVICES_RAM_DIFFERS, sentence, {"device": device, "block": block})
        for block, sentence in _ram(difference)
    ]
    for changes in (difference.fields, difference.stream):
        problems += [
            Problem(Code.DEVICES_DIFFERS, sentence, {"device": device, "field": name})
            for name, sentence in _fields(changes)
        ]
    return problems


def source_problems(difference: Difference, device: str, machine: Container[str]) -> list[Problem]:
    """Return a problem for each field in which a device of the source guest is not as in the file.

    The guest has run on meanwhile, and uses nothing but its processor and memory.

    Args:
        difference: between the file and an ordinary save of the source guest afterwards.
        device: its name.
        machine: names of the sections that the machine has without the device; they may differ.
    """
    own = [change for change in difference.fields if _section(change.path) not in machine]
    return [
        Problem(Code.DEVICES_NOT_AT_T0, f"In the source guest: {sentence}", {"device": device, "field": name})
        for name, sentence in _fields(own, "afterwards")
    ]


def device_sections(path: Path) -> frozenset[str]:
    """Return name and instance of each device section in a file, as they begin the paths of their fields."""
    with open_source(path) as source:
        index = read_index(source)
    return frozenset(f"{section.idstr} ({section.instance})" for section in index.devices)


def _section(path: str) -> str:
    """Return the name and instance of a section in the path of one of its fields."""
    found = _SECTION.match(path)
    return found[0] if found else path


def _ram(difference: Difference) -> Iterable[tuple[str, str]]:
    for block, pages in difference.pages.items():
        yield block, f"{len(pages)} pages of '{block}' differ after the restore, the first at {pages[0]:#x}."
    for block in difference.only_first:
        yield block, f"RAMBlock '{block}' is in the first file alone, or has another length there."
    for block in difference.only_second:
        yield block, f"RAMBlock '{block}' is in the second file alone, or has another length there."


def _fields(changes: Iterable[FieldChange], when: str = "after the restore") -> Iterable[tuple[str, str]]:
    """Yield the name and a sentence for each field that differs."""
    seen: dict[str, list[FieldChange]] = {}
    for change in changes:
        seen.setdefault(_INDEX.sub("", change.path), []).append(change)
    for name, found in seen.items():
        first = found[0]
        more = f", and {len(found) - 1} more of its elements" if len(found) > 1 else ""
        before, after = (_shown(value) for value in (first.before, first.after))
        yield name, f"'{first.path}' was {before}, and is {after} {when}{more}."


def _shown(value: object) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= _VALUE_LENGTH else f"{text[:_VALUE_LENGTH]}..."
