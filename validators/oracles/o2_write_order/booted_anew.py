"""Tells agent pages left in RAM by a guest that was booted anew from pages whose control page is lost.

A reset keeps RAM. Where the guest's program is an agent without an operating system, it is then loaded and
started once more: its control page has the mailbox and nothing else, and its data do not know the random
number of the pages left behind (guest_images/agent/bare/main.c, mailbox_open()). A control page that is lost,
or of an earlier moment, leaves that number in the agent's data, which have it from SERVE on.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from guest_images.agent.format import (
    DATA_MAGIC,
    DIRECTORY_MAGIC,
    MAILBOX_MAGIC,
    PAGE_BYTES,
    REPORT_MAGIC,
    THREAD_MAGIC,
    WORD_BYTES,
    ControlWord,
    PageWord,
)
from validators.oracles.o2_write_order.scan import AgentScan, SpecialPage, Words
from validators.vmstate.pages import Batch, PageReader

_PAGES = np.array([DATA_MAGIC, THREAD_MAGIC, DIRECTORY_MAGIC, REPORT_MAGIC], np.uint64)
# Words that an agent sets without having been told to serve.
_OF_WAITING = frozenset(range(ControlWord.MAILBOX, ControlWord.BOOT_TICKS + 1))
# A guest is served by few agents. More numbers are damage, and cost time.
_MOST_NONCES = 16


def waiting_agent(reader: PageReader, scan: AgentScan) -> SpecialPage | None:
    """Return the control page of an agent that was started and has not served; None if there is none.

    It is None too if any memory but the pages left behind has one of their random numbers: then the agent
    that wrote them is there, and its control page is lost.
    """
    nonces = _nonces(scan)
    if len(nonces) > _MOST_NONCES:
        return None
    orders = [nonce.to_bytes(WORD_BYTES, order) for nonce in nonces for order in ("little", "big")]
    waiting: list[SpecialPage] = []
    for number, block in enumerate(reader.index.blocks):
        if block.page_size != PAGE_BYTES:
            continue
        for known, pages in reader.each(block, lambda batch: _look(batch, orders)):
            if known:
                return None
            waiting += [SpecialPage(number, page, words) for page, words in pages]
    return waiting[0] if len(waiting) == 1 else None


def _nonces(scan: AgentScan) -> set[int]:
    found = set(np.unique(scan.data.header[:, PageWord.NONCE]).tolist())
    return found.union(page[PageWord.NONCE] for page in (*scan.threads, *scan.directories))


def _look(batch: Batch, nonces: Collection[bytes]) -> tuple[bool, list[tuple[int, Words]]]:
    """Return whether memory that is no agent page has one of the numbers, and the pages of waiting agents."""
    words = batch.words
    rest = np.flatnonzero(~np.isin(words[:, PageWord.MAGIC], _PAGES))
    content = words[rest].tobytes()
    waiting = [(int(batch.pages[row]), words[row].copy()) for row in rest.tolist() if _waits(words[row])]
    return any(nonce in content for nonce in nonces), waiting


def _waits(words: Words) -> bool:
    if int(words[ControlWord.MAILBOX]) != MAILBOX_MAGIC:
        return False
    return _OF_WAITING.issuperset(np.flatnonzero(words).tolist())
