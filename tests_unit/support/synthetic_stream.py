"""Writes small valid vmstate streams with agent pages, plain and mapped-ram, for tests of the oracles."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from guest_images.agent import pages as ap
from guest_images.agent.format import (
    CONTROL_MAGIC,
    DIRECTORY_ENTRIES,
    DIRECTORY_MAGIC,
    FORMAT_VERSION,
    PAGE_BYTES,
    PAGE_WORDS,
    THREAD_MAGIC,
    AgentState,
    ControlWord,
    DirectoryWord,
    PageWord,
    ThreadWord,
    WriterState,
)

PAGE = PAGE_BYTES
NONCE = 0x1122334455667788
_MAPPED_ALIGN = 1 << 20


def _name(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


@dataclass
class Guest:
    """A synthetic guest at T0.

    Attributes:
        pattern: agent pattern.
        steps: steps done by each thread.
        counts: data pages of each thread.
        torn: per thread the cut of the torn next page, 0 for none.
        ram_pages: pages of the main RAMBlock.
        seed: agent seed.
    """

    pattern: int = 0
    steps: tuple[int, ...] = (150, 77)
    counts: tuple[int, ...] = (60, 40)
    torn: tuple[int, ...] = (0, 0)
    ram_pages: int = 256
    seed: int = 7
    machine: str = "pc-i440fx-10.0"
    agent: bool = True
    ram: np.ndarray[Any, np.dtype[np.uint64]] = field(init=False, repr=False)
    places: dict[tuple[int, int], int] = field(init=False, repr=False)
    control_page: int = 3

    def __post_init__(self) -> None:
        self.ram = np.zeros((self.ram_pages, PAGE_WORDS), np.uint64)
        self.places = {}
        random = np.random.default_rng(self.seed)
        self.ram[200:230] = random.integers(1, 1 << 63, (30, PAGE_WORDS), np.uint64)
        if self.agent:
            self._control()
            free = iter(random.permutation(np.arange(20, 190)).tolist())
            for thread in range(len(self.counts)):
                self._thread(thread, free)

    def schedule(self, thread: int) -> ap.Schedule:
        """The write schedule of a thread."""
        return ap.Schedule(self.pattern, self.counts[thread], self.seed, thread)

    def _control(self) -> None:
        self._fill(
            self.control_page,
            {
                PageWord.MAGIC: CONTROL_MAGIC,
                ControlWord.VERSION: FORMAT_VERSION,
                ControlWord.PATTERN: self.pattern,
                ControlWord.SEED: self.seed,
                ControlWord.THREADS: len(self.counts),
                ControlWord.PAGE_SIZE: PAGE_BYTES,
                ControlWord.DATA_PAGES: sum(self.counts),
                ControlWord.MONOTONIC_NS: 123_000_000_000,
                ControlWord.REALTIME_NS: 1_700_000_000_000_000_000,
                ControlWord.HEARTBEATS: 42,
                ControlWord.STATE: AgentState.RUNNING,
                ControlWord.GUEST_RAM: self.ram_pages * PAGE,
            },
        )

    def _fill(self, page: int, words: Mapping[int, int]) -> None:
        for word, value in {PageWord.NONCE: NONCE, **words}.items():
            self.ram[page, word] = value

    def _thread(self, thread: int, free: Any) -> None:
        count, steps, schedule = self.counts[thread], self.steps[thread], self.schedule(thread)
        places = [next(free) for _ in range(count)]
        self.places.update({(thread, index): place for index, place in enumerate(places)})
        generation, last = schedule.state(steps)
        index = np.arange(count, dtype=np.uint64)
        self.ram[places] = schedule.content(NONCE, index, generation, last)
        if self.torn[thread]:
            at, new = schedule.locate(np.array([steps], np.uint64))
            page = schedule.content(NONCE, at, new, np.array([steps], np.uint64))[0]
            self.ram[places[int(at[0])], : self.torn[thread]] = page[: self.torn[thread]]
        self._fill(
            4 + thread,
            {
                PageWord.MAGIC: THREAD_MAGIC,
                ThreadWord.NUMBER: thread,
                ThreadWord.PAGES: count,
                ThreadWord.STEPS: steps,
                ThreadWord.STATE: WriterState.WRITING,
                ThreadWord.MONOTONIC_NS: 122_999_000_000,
            },
        )
        for first in range(0, count, DIRECTORY_ENTRIES):
            self._directory(10 + thread, thread, first, places[first : first + DIRECTORY_ENTRIES])

    def _directory(self, place: int, thread: int, first: int, frames: Sequence[int]) -> None:
        self._fill(
            place,
            {
                PageWord.MAGIC: DIRECTORY_MAGIC,
                DirectoryWord.THREAD: thread,
                DirectoryWord.FIRST_INDEX: first,
                DirectoryWord.COUNT: len(frames),
            },
        )
        page = self.ram[place]
        page[DirectoryWord.FRAMES : DirectoryWord.FRAMES + len(frames)] = frames
        page[DirectoryWord.CHECKSUM] = ap.checksum(page[None, :])[0]


def device(section: int, name: str, values: list[int]) -> tuple[bytes, dict[str, Any]]:
    """A device section of 32-bit fields with one subsection, and its vmdesc entry."""
    body = struct.pack(f">{len(values)}I", *values)
    sub = f"{name}/extra"
    body += bytes([5]) + _name(sub) + struct.pack(">IQ", 1, 99)
    head = bytes([4]) + struct.pack(">I", section) + _name(name) + struct.pack(">II", 0, 1)
    entry = {
        "name": name, "instance_id": 0, "vmsd_name": name, "version": 1,
        "fields": [{"name": "reg", "array_len": len(values), "type": "uint32", "size": 4}],
        "subsections": [{
            "vmsd_name": sub, "version": 1, "fields": [{"name": "deep", "type": "uint64", "size": 8}],
        }],
    }  # fmt: skip
    return head + body + _footer(section), entry


def _footer(section: int) -> bytes:
    return bytes([0x7E]) + struct.pack(">I", section)


@dataclass
class Writer:
    """Turns RAM into a stream.

    Attributes:
        guest: whose RAM to write.
        order: page order of the main block; None means ascending.
        pages_per_section: page records in a PART section.
        registers: content of the devices, which are numbered from 10.
    """

    guest: Guest
    order: list[int] | None = None
    pages_per_section: int = 100
    rom: bytes = b"\xaa" * PAGE * 2
    mapped: bool = False
    registers: tuple[list[int], ...] = ([1, 2, 3], [4, 5], [6])
    _last: str = field(default="", init=False)

    def blocks(self) -> list[tuple[str, np.ndarray[Any, np.dtype[np.uint64]]]]:
        """RAMBlocks of the stream: the guest's RAM and a small ROM."""
        return [
            ("pc.ram", self.guest.ram),
            ("pc.rom", np.frombuffer(self.rom, "<u8").reshape(-1, PAGE_WORDS)),
        ]

    def stream(self) -> bytes:
        """The whole stream."""
        return self.stream_with([])

    def stream_with(self, more: Sequence[tuple[bytes, dict[str, Any]]]) -> bytes:
        """The whole stream with more devices, each a section and its vmdesc entry."""
        out = bytearray(struct.pack(">II", 0x5145564D, 3))
        machine = self.guest.machine.encode()
        out += bytes([7]) + struct.pack(">I", len(machine)) + machine
        if self.mapped:
            name = "configuration/capabilities"
            out += bytes([5]) + _name(name) + struct.pack(">II", 1, 1) + _name("mapped-ram")
        self._ram(out)
        entries = []
        devices = [
            device(10 + number, f"dev{number}", values) for number, values in enumerate(self.registers)
        ]
        for section, entry in [*devices, *more]:
            out += section
            entries.append(entry)
        text = json.dumps({"page_size": PAGE, "devices": entries}).encode()
        out += bytes([0, 6]) + struct.pack(">I", len(text)) + text
        return bytes(out)

    def _ram(self, out: bytearray) -> None:
        blocks = self.blocks()
        out += bytes([1]) + struct.pack(">I", 2) + _name("ram") + struct.pack(">II", 0, 4)
        out += struct.pack(">Q", sum(ram.nbytes for _, ram in blocks) | 0x04)
        for name, ram in blocks:
            out += _name(name) + struct.pack(">Q", ram.nbytes)
            if self.mapped:
                self._mapped_block(out, ram)
        out += struct.pack(">Q", 0x10) + _footer(2)
        if self.mapped:
            out += bytes([3]) + struct.pack(">IQ", 2, 0x10) + _footer(2)
            return
        records = self._records(blocks)
        for start in range(0, len(records), self.pages_per_section):
            out += bytes([2]) + struct.pack(">I", 2)
            for name, page, data in records[start : start + self.pages_per_section]:
                again = start > 0 or page is not records[0][1]
                out += self._record(name, page, data, again and name == self._last)
                self._last = name
            out += struct.pack(">Q", 0x10) + _footer(2)

    def _records(self, blocks: list[tuple[str, Any]]) -> list[tuple[str, int, bytes]]:
        records = []
        for name, ram in blocks:
            order = self.order if self.order is not None and name == "pc.ram" else range(len(ram))
            records += [(name, page, ram[page].tobytes()) for page in order]
        return records

    @staticmethod
    def _record(name: str, page: int, data: bytes, again: bool) -> bytes:
        zero = not any(data)
        word = page * PAGE | (0x02 if zero else 0x08) | (0x20 if again else 0)
        head = struct.pack(">Q", word) + (b"" if again else _name(name))
        return head + (b"\0" if zero else data)

    @staticmethod
    def _mapped_block(out: bytearray, ram: np.ndarray[Any, np.dtype[np.uint64]]) -> None:
        bitmap_at = len(out) + 28
        bitmap = np.packbits(ram.any(axis=1), bitorder="little").tobytes()
        bitmap += bytes(-len(bitmap) % 8)
        pages_at = (bitmap_at + len(bitmap) + _MAPPED_ALIGN - 1) // _MAPPED_ALIGN * _MAPPED_ALIGN
        out += struct.pack(">IQQQ", 1, PAGE, bitmap_at, pages_at) + bitmap
        out += bytes(pages_at - len(out)) + ram.tobytes()


def write_golden(folder: Path, writer: Writer) -> Path:
    """Write a golden image folder for the writer's RAM; returns the folder."""
    folder.mkdir()
    entries = []
    for number, (name, ram) in enumerate(writer.blocks()):
        file = f"block-{number:03}.ram"
        (folder / file).write_bytes(ram.tobytes())
        entries.append({"idstr": name, "bytes": ram.nbytes, "file": file})
    content = {"version": 1, "page_size": PAGE, "blocks": entries}
    (folder / "golden.json").write_text(json.dumps(content))
    return folder
