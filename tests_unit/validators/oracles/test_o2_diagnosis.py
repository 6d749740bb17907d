"""Contract: a wrong agent page is said to be newer, older, torn, corrupt, zero, or another page."""

from __future__ import annotations

import numpy as np
import pytest

from guest_images.agent import pages as ap
from harness.codes import Code
from validators.oracles.o2_write_order.diagnosis import Diagnosis, diagnose

_NONCE = (1 << 63) | 0x1122334455667788
_PAGES, _STEPS, _INDEX = 10, 57, 3
_SEQUENTIAL = ap.Schedule(ap.Pattern.SEQUENTIAL, _PAGES, 7, 1)
# Page 3 of 10 that are written in turn: its sixth write is step 53, and step 57 writes page 7.
_RIGHT = (6, 53)


def _words(generation: int, step: int, index: int = _INDEX, thread: int = 1, nonce: int = _NONCE) -> ap.Words:
    one = [np.array([value], np.uint64) for value in (index, generation, step)]
    page: ap.Words = ap.data_pages(nonce, thread, *one)[0]
    return page


def _mixed(cut: int, front: ap.Words, back: ap.Words) -> ap.Words:
    return np.concatenate([front[:cut], back[cut:]])


def _diagnose(
    words: ap.Words, index: int = _INDEX, expected: tuple[int, int] = _RIGHT, steps: int = _STEPS
) -> Diagnosis | None:
    return diagnose(_SEQUENTIAL, _NONCE, index, expected, steps, words.tobytes())


def test_right_page() -> None:
    """Bit for bit that of its last write; a page never written is zeros."""
    assert _diagnose(_words(*_RIGHT)) is None
    assert _diagnose(np.zeros(512, np.uint64), 3, (0, 0), 2) is None


@pytest.mark.parametrize("cut", [1, 5, 6, 7, 256, 511, 512])
def test_page_that_is_being_written_at_t0(cut: int) -> None:
    """Step 57 writes page 7: any beginning of the new page may be there, also all of it."""
    page = _mixed(cut, _words(6, 57, 7), _words(5, 47, 7))
    assert _diagnose(page, 7, (5, 47)) is None


@pytest.mark.parametrize("cut", [7, 256, 511])
def test_old_words_before_new_ones_are_not_being_written(cut: int) -> None:
    """A writer begins at the first word."""
    found = _diagnose(_mixed(cut, _words(5, 47, 7), _words(6, 57, 7)), 7, (5, 47))
    assert found is not None
    assert found.code is Code.WRITE_ORDER_CORRUPT


def test_page_that_the_stream_lacks() -> None:
    """It says what should be there: a write, or zeros."""
    for expected, words in ((_RIGHT, "generation 6, step 53"), ((0, 0), "zeros")):
        assert diagnose(_SEQUENTIAL, _NONCE, _INDEX, expected, _STEPS, None) == Diagnosis(
            Code.WRITE_ORDER_MISSING, "missing from the stream", words, "nothing"
        )


def test_zero_page_in_place_of_a_write() -> None:
    """It is named as such; the two lines of the dump are those of the first word."""
    found = _diagnose(np.zeros(512, np.uint64))
    assert found is not None
    assert (found.code, found.sentence, found.expected, found.found) == (
        Code.WRITE_ORDER_ZERO, "zero", "generation 6, step 53", "zeros",
    )  # fmt: skip
    expected, more, zeros, last = found.hexdump.split("\n")
    assert expected == f"expected +0x000: {_words(*_RIGHT).tobytes()[:16].hex(' ')}"
    assert more.startswith("expected +0x010: ")
    assert (zeros, last) == (
        f"found    +0x000: {bytes(16).hex(' ')}",
        f"found    +0x010: {bytes(16).hex(' ')}",
    )


@pytest.mark.parametrize(
    ("page", "code", "sentence"),
    [
        (_words(7, 63), Code.WRITE_ORDER_NEWER, "newer than T0 by 10 steps of its thread"),
        (_words(6, 54), Code.WRITE_ORDER_NEWER, "newer than T0 by 1 steps of its thread"),
        (_words(6, 52), Code.WRITE_ORDER_OLDER, "older than T0 by 1 steps of its thread"),
        (_words(1, 3), Code.WRITE_ORDER_OLDER, "older than T0 by 50 steps of its thread"),
        (
            _words(5, 53),
            Code.WRITE_ORDER_WRONG_GENERATION,
            "of generation 5 although its step is right",
        ),
        (
            _words(6, 53, thread=2),
            Code.WRITE_ORDER_MISPLACED,
            "page 3 of thread 2, which belongs elsewhere",
        ),
        (
            _words(6, 54, index=4),
            Code.WRITE_ORDER_MISPLACED,
            "page 4 of thread 1, which belongs elsewhere",
        ),
        (_words(6, 53, nonce=5), Code.WRITE_ORDER_OTHER_AGENT, "a page of an earlier agent"),
        (_words(6, 54, 4, 2, 5), Code.WRITE_ORDER_OTHER_AGENT, "a page of an earlier agent"),
    ],
)
def test_whole_page_of_another_write(page: ap.Words, code: Code, sentence: str) -> None:
    """A page whose words agree with each other is named by its header."""
    found = _diagnose(page)
    assert found is not None
    assert (found.code, found.sentence, found.expected) == (code, sentence, "generation 6, step 53")
    header = ap.DataHeader.of(page)
    assert found.found == (
        f"thread {header.thread}, page {header.index}, generation {header.generation}, step {header.step}"
    )
    assert found.fields == {}


@pytest.mark.parametrize("cut", [6, 7, 256, 511])
@pytest.mark.parametrize(
    ("write", "age", "steps"), [((7, 63), "newer", 10), ((8, 73), "newer", 20), ((5, 43), "older", 10)]
)
def test_torn_page(cut: int, write: tuple[int, int], age: str, steps: int) -> None:
    """Two writes of one page in it, where step S writes another page: newer or older words come first."""
    found = _diagnose(_mixed(cut, _words(*write), _words(*_RIGHT)))
    assert found is not None
    assert (found.code, found.fields) == (Code.WRITE_ORDER_TORN, {"age": age})
    assert found.sentence == f"torn at word {cut}: {age} by {steps} steps before it, right behind"


@pytest.mark.parametrize(
    "front",
    [
        _words(7, 64),
        _words(6, 63),
        _words(7, 63, thread=2),
        _words(7, 63, nonce=5),
        _words(7, 64, index=4),
    ],
)
def test_header_of_no_write_of_this_page_is_corrupt(front: ap.Words) -> None:
    """Only a step that writes this very page, with its generation, can have torn it."""
    found = _diagnose(_mixed(100, front, _words(*_RIGHT)))
    assert found is not None
    assert found.code is Code.WRITE_ORDER_CORRUPT


def test_words_of_two_writes_in_disorder_are_corrupt() -> None:
    """A page is written from its first word to its last."""
    page = _mixed(100, _words(7, 63), _words(*_RIGHT))
    page[300] = _words(7, 63)[300]
    found = _diagnose(page)
    assert found is not None
    assert found.code is Code.WRITE_ORDER_CORRUPT


@pytest.mark.parametrize(
    ("flips", "first", "bits"),
    [
        ({511: 1}, 511, 1),
        ({6: 1 << 63}, 6, 1),
        ({0: 3, 300: 7}, 0, 5),
        ({300: 1, 301: 1}, 300, 2),
        ({100: (1 << 64) - 1}, 100, 64),
    ],
)
def test_corrupt_page(flips: dict[int, int], first: int, bits: int) -> None:
    """The first wrong word, its right value, and how many bits of the page differ; the dump is of there."""
    right, page = _words(*_RIGHT), _words(*_RIGHT)
    for word, mask in flips.items():
        page[word] ^= np.uint64(mask)
    found = _diagnose(page)
    assert found is not None
    assert found.code is Code.WRITE_ORDER_CORRUPT
    assert found.sentence == (
        f"corrupt: word {first} is 0x{int(page[first]):016x} instead of 0x{int(right[first]):016x} "
        f"({bits} bits of the page differ)"
    )
    at = first * 8 // 16 * 16
    assert f"expected +0x{at:03x}: {right.tobytes()[at : at + 16].hex(' ')}" in found.hexdump
    assert f"found    +0x{at:03x}: {page.tobytes()[at : at + 16].hex(' ')}" in found.hexdump
    assert not found.hexdump.startswith(f"expected +0x{at - 16:03x}")


def test_page_of_zeros_by_the_zero_pattern() -> None:
    """Its even generations are zeros; a write in their place is newer or older."""
    schedule = ap.Schedule(ap.Pattern.ZERO, _PAGES, 7, 1)
    content = _words(7, 63).tobytes()
    assert diagnose(schedule, _NONCE, _INDEX, (6, 53), _STEPS, bytes(4096)) is None
    found = diagnose(schedule, _NONCE, _INDEX, (6, 53), _STEPS, content)
    assert found is not None
    assert (found.code, found.expected) == (Code.WRITE_ORDER_NEWER, "zeros")
