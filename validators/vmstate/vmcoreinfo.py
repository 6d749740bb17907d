"""Finds the vmcoreinfo of Linux in guest RAM: the text from which tools know a kernel's version and layout.

Linux 5.4 to 6.12 kernel/vmcore_info.c, before 6.9 kernel/crash_core.c: it fills a page of its own, whose text
begins with OSRELEASE= and has the page size and the addresses of symbols. Its end is a zero byte.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from validators.vmstate.pages import PageReader
from validators.vmstate.stream.index import Block

_BEGINS = b"OSRELEASE="
_HAS = (b"\nPAGESIZE=", b"\nSYMBOL(")
# The largest page of Linux; VMCOREINFO_BYTES is a page.
_MOST_BYTES = 64 << 10
_MOST_TEXTS = 8
_TEXT = frozenset(b"\n" + bytes(range(32, 127)))


def find_vmcoreinfo(reader: PageReader, blocks: Iterable[Block]) -> list[bytes]:
    """Return the different vmcoreinfo texts in RAMBlocks, at most a few.

    Raises:
        StreamError: the file became shorter while it was read.
    """
    found: list[bytes] = []
    for block in blocks:
        for page in _beginnings(reader, block):
            text = _text_at(reader, block, page)
            if text and text not in found:
                found.append(text)
            if len(found) == _MOST_TEXTS:
                return found
    return found


def release_of(text: bytes) -> str:
    """Return the version of Linux that a vmcoreinfo text names."""
    return text.split(b"\n", 1)[0].removeprefix(_BEGINS).decode("ascii")


def _beginnings(reader: PageReader, block: Block) -> list[int]:
    """Return the pages that begin as such a text does."""
    beginning = np.frombuffer(_BEGINS, np.uint8)
    pages: list[int] = []
    for batch in reader.batches(block):
        heads = np.frombuffer(batch.space, np.uint8)[batch.starts[:, None] + np.arange(len(beginning))]
        pages += batch.pages[(heads == beginning).all(axis=1)].tolist()
    return pages


def _text_at(reader: PageReader, block: Block, page: int) -> bytes:
    """Return the text that begins at a page, b"" if it is no vmcoreinfo."""
    text = b""
    while b"\0" not in text:
        more = reader.page(block, page)
        if more is None or len(text) >= _MOST_BYTES:
            return b""
        text, page = text + more, page + 1
    text = text.split(b"\0", 1)[0]
    return text if all(mark in text for mark in _HAS) and _TEXT.issuperset(text) else b""
