"""Finds out what is wrong with one agent page: newer, older, torn, corrupt, zero, or another page."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from guest_images.agent import pages as ap
from guest_images.agent.format import DATA_MAGIC, PAGE_WORDS
from harness.codes import Code, Fields
from validators.verdict import hexdump

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Diagnosis:
    """What a page is instead of what it should be.

    Attributes:
        code: of the violation.
        sentence: completes "The page is ...".
        expected: what should be there.
        found: what is there.
        hexdump: a few lines around the first wrong byte.
        fields: values that tell apart what the code stands for.
    """

    code: Code
    sentence: str
    expected: str
    found: str
    hexdump: str = ""
    fields: Fields = field(default_factory=dict)


def diagnose(
    schedule: ap.Schedule, nonce: int, index: int, expected: tuple[int, int], steps: int, raw: bytes | None
) -> Diagnosis | None:
    """Judge the content of one page of a thread bit for bit.

    Args:
        schedule: the thread's write order.
        nonce: the agent's nonce.
        index: number of the page in its thread.
        expected: generation and step of its last write among the first `steps`.
        steps: steps the thread has done at T0.
        raw: the page's content, None if the stream does not have the page.

    Returns:
        None if the page is right, also if it is the one page that the thread is writing at T0.
    """
    wanted = _content(schedule, nonce, index, *expected)
    text = "zeros" if not wanted.any() else f"generation {expected[0]}, step {expected[1]}"
    if raw is None:
        return Diagnosis(Code.WRITE_ORDER_MISSING, "missing from the stream", text, "nothing")
    words = np.frombuffer(raw, "<u8")
    if np.array_equal(words, wanted):
        return None
    writing, generation = schedule.locate(np.array([steps], np.uint64))
    if int(writing[0]) == index:
        new = _content(schedule, nonce, index, int(generation[0]), steps)
        if _cut(new, wanted, words) is not None:
            return None
    return _wrong(schedule, nonce, index, expected, words, wanted, text)


def _content(schedule: ap.Schedule, nonce: int, index: int, generation: int, step: int) -> Words:
    def one(value: int) -> Words:
        return np.array([value], np.uint64)

    page: Words = schedule.content(nonce, one(index), one(generation), one(step))[0]
    return page


def _cut(new: Words, old: Words, words: Words) -> int | None:
    """Return how many words of `new` come before words of `old`, None if the page is no such mixture."""
    differs = np.flatnonzero(words != new)
    cut = int(differs[0]) if len(differs) else PAGE_WORDS
    return cut if np.array_equal(words[cut:], old[cut:]) else None


def _wrong(
    schedule: ap.Schedule, nonce: int, index: int, expected: tuple[int, int],
    words: Words, wanted: Words, text: str,
) -> Diagnosis:  # fmt: skip
    first = int(np.flatnonzero(words != wanted)[0])
    dump = (
        hexdump(wanted.tobytes(), first * 8, "expected")
        + "\n"
        + hexdump(words.tobytes(), first * 8, "found   ")
    )
    if not words.any():
        return Diagnosis(Code.WRITE_ORDER_ZERO, "zero", text, "zeros", dump)
    header = ap.DataHeader.of(words)
    said = f"thread {header.thread}, page {header.index}, generation {header.generation}, step {header.step}"
    if bool(ap.intact(words[None, :])[0]):
        return Diagnosis(*_whole(schedule, nonce, index, expected, header), text, said, dump)
    # A page is torn only by a step that writes this very page; else its header is damaged.
    written, generation = schedule.locate(np.array([header.step], np.uint64))
    claimed = ap.DataHeader(
        DATA_MAGIC, nonce, schedule.thread, int(written[0]), int(generation[0]), header.step
    )
    if header == claimed and header.index == index:
        new = _content(schedule, nonce, index, header.generation, header.step)
        cut = _cut(new, wanted, words)
        if cut is not None:
            age = "newer" if header.step > expected[1] else "older"
            return Diagnosis(
                Code.WRITE_ORDER_TORN,
                f"torn at word {cut}: {age} by {abs(header.step - expected[1])} steps before it, "
                "right behind",
                text, said, dump, {"age": age},
            )  # fmt: skip
    bits = (int.from_bytes((words ^ wanted).tobytes(), "little")).bit_count()
    return Diagnosis(
        Code.WRITE_ORDER_CORRUPT,
        f"corrupt: word {first} is 0x{int(words[first]):016x} instead of 0x{int(wanted[first]):016x} "
        f"({bits} bits of the page differ)",
        text, said, dump,
    )  # fmt: skip


def _whole(
    schedule: ap.Schedule, nonce: int, index: int, expected: tuple[int, int], header: ap.DataHeader
) -> tuple[Code, str]:
    """Return code and words for an intact data page that is not the right one."""
    if header.nonce != nonce:
        return Code.WRITE_ORDER_OTHER_AGENT, "a page of an earlier agent"
    if header.thread != schedule.thread or header.index != index:
        words = f"page {header.index} of thread {header.thread}, which belongs elsewhere"
        return Code.WRITE_ORDER_MISPLACED, words
    if header.step > expected[1]:
        return Code.WRITE_ORDER_NEWER, f"newer than T0 by {header.step - expected[1]} steps of its thread"
    if header.step < expected[1]:
        return Code.WRITE_ORDER_OLDER, f"older than T0 by {expected[1] - header.step} steps of its thread"
    words = f"of generation {header.generation} although its step is right"
    return Code.WRITE_ORDER_WRONG_GENERATION, words
