"""Runs `snapproof info`: prints what is in a vmstate file, without judging it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from harness.errors import UsageError
from harness.status import EXIT_FAIL, EXIT_PASS
from snapproof.cli.streams import shown as escaped
from snapproof.runs.outputs import write_json_file
from validators.vmstate.containers.container import Container
from validators.vmstate.containers.opening import open_stream
from validators.vmstate.facts import describe
from validators.vmstate.stream.format import SECTION_NAMES
from validators.vmstate.stream.index import Block, SnapshotIndex
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import PipeSource

_PIECE = 1 << 20
_FORMAT_VERSION = 1


def info(arguments: argparse.Namespace) -> int:
    """Read the file, or all files of a folder, print the content, and return the exit code of `--help`."""
    if arguments.file.is_dir():
        from snapproof.cli.vmstate_folder import info_folder

        if arguments.needs:
            raise UsageError("--needs is about one file; name it, and not a folder.")
        return info_folder(arguments)
    if arguments.needs:
        from snapproof.cli.info_needs import info_needs

        return info_needs(arguments)
    content = _read(arguments.file, arguments.offset, arguments.snapshot)
    if arguments.json:
        write_json_file(arguments.json, json.dumps(content, indent=1))
    _print(arguments.file, content)
    return EXIT_FAIL if content["damage"] else EXIT_PASS


def _read(path: Path, offset: int, snapshot: str) -> dict[str, Any]:
    if str(path) != "-":
        with open_stream(path, offset, snapshot) as opened:
            index = read_index(opened.source, opened.start, opened.ends_file)
            return content_of(index, opened.containers)
    if offset or snapshot or sys.stdin is None or sys.stdin.isatty():
        raise UsageError("'-' reads a stream from the start of standard input, which must not be a terminal.")
    index = read_index(PipeSource(sys.stdin.buffer))
    if index.damage is not None and index.damage.check == "pipe":
        raise UsageError(f"{index.damage.sentence} Name the file itself instead of '-'.")
    return content_of(index)


def content_of(index: SnapshotIndex, containers: Sequence[Container] = ()) -> dict[str, Any]:
    """Return everything that the command prints of a file, as JSON values."""
    configuration = index.configuration
    kinds = [SECTION_NAMES[section.kind] for section in index.sections if section.is_ram]
    return {
        "version": _FORMAT_VERSION,
        "file": describe(index, containers),
        "containers": [
            {
                "name": container.name,
                **container.facts,
                "problem": container.problem.sentence if container.problem else None,
            }
            for container in containers
        ],
        "configuration": {
            "machine": configuration.machine,
            "capabilities": list(configuration.capabilities),
            "target page bits": configuration.page_bits,
            "uuid": str(UUID(bytes=configuration.uuid)) if configuration.uuid else None,
            "subsections": list(configuration.subsections),
        },
        "commands": [command.name for command in index.commands],
        "RAM sections": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        "section footers": index.footers,
        "blocks": [_block(index, block) for block in index.blocks],
        "devices": [
            {
                "name": section.idstr,
                "instance": section.instance,
                "version": section.version,
                "bytes": section.data_end - section.data_offset,
                "offset": section.offset,
            }
            for section in index.devices
        ],
        "iterables": _iterables(index),
        "vmdesc bytes": index.vmdesc.length if index.vmdesc else None,
        "damage": _damage(index),
    }


def _iterables(index: SnapshotIndex) -> list[dict[str, Any]]:
    """State other than RAM that is saved in parts: one entry for each section number."""
    entries: dict[int, dict[str, Any]] = {}
    for section in index.iterables:
        entry = entries.setdefault(
            section.section_id,
            {
                "name": section.idstr,
                "instance": section.instance,
                "version": section.version,
                "sections": {},
                "bytes": 0,
                "offset": section.offset,
            },
        )
        kind = SECTION_NAMES[section.kind]
        entry["sections"][kind] = entry["sections"].get(kind, 0) + 1
        entry["bytes"] += section.data_end - section.data_offset
    return list(entries.values())


def _damage(index: SnapshotIndex) -> dict[str, Any] | None:
    damage = index.damage
    return {"offset": damage.offset, "sentence": damage.sentence} if damage else None


def _block(index: SnapshotIndex, block: Block) -> dict[str, Any]:
    data = zero = 0
    # In pieces, so that a block of terabytes needs no second array of its size.
    for first in range(0, block.pages, _PIECE):
        piece = block.page_source[first : first + _PIECE]
        data += int(np.count_nonzero(piece > 0))
        zero += int(np.count_nonzero(piece < 0))
    return {
        "name": block.idstr,
        "bytes": block.used_length,
        "page size": block.page_size,
        "data pages": data,
        "zero pages": zero,
        "missing pages": block.pages - data - zero,
        "left out as shared": index.left_out(block),
    }


def _print(path: Path, content: dict[str, Any]) -> None:
    print(f"{escaped(path)}: vmstate stream, version 3")
    for name, value in {**content["file"], **content["configuration"]}.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        if shown not in (None, ""):
            print(f"  {name}: {shown:,}" if isinstance(shown, int) else f"  {name}: {shown}")
    for name in ("RAM sections", "vmdesc bytes"):
        value = content[name]
        shown = ", ".join(f"{count} {kind}" for kind, count in value.items()) if name[0] == "R" else value
        print(f"  {name}: {shown}")
    if content["commands"]:
        print(f"  commands: {', '.join(dict.fromkeys(content['commands']))}")
    width = max([8, *(len(block["name"]) for block in content["blocks"])])
    print(f"{'RAMBlock':{width}} {'bytes':>16} {'page size':>9} {'data':>10} {'zero':>10} {'missing':>8}")
    for block in content["blocks"]:
        print(
            f"{block['name']:{width}} {block['bytes']:16,} {block['page size']:9,} {block['data pages']:10,} "
            f"{block['zero pages']:10,} {block['missing pages']:8,}"
            + ("  left out as shared" if block["left out as shared"] else "")
        )
    width = max([6, *(len(device["name"]) for device in content["devices"])])
    print(f"{'device':{width}} {'instance':>10} {'version':>7} {'bytes':>10} {'offset':>16}")
    for device in content["devices"]:
        print(
            f"{device['name']:{width}} {device['instance']:10} {device['version']:7} {device['bytes']:10,} "
            f"{device['offset']:16,}"
        )
    for entry in content["iterables"]:
        counts = ", ".join(f"{count} {kind}" for kind, count in entry["sections"].items())
        print(
            f"iterable {entry['name']} ({entry['instance']}): version {entry['version']}, {counts}, "
            f"{entry['bytes']:,} bytes, at offset {entry['offset']:,}"
        )
    for container in content["containers"]:
        if container["problem"]:
            print(f"  {container['problem']}")
    if content["damage"]:
        print(f"Damaged: reading stopped at offset {content['damage']['offset']:,}.")
        print(f"  {content['damage']['sentence']}")
