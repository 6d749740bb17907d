"""Tells the remains of an agent that had gone before T0 from pages that a snapshot has got wrong.

An agent that is killed, or whose guest is reset, leaves its pages in memory, which others then use. An agent
that ends in order wipes its pages, and is not a subject of this.
"""

from __future__ import annotations

from dataclasses import replace

from guest_images.agent.format import PageWord
from harness.codes import Code
from harness.status import Status
from validators.oracles.o2_write_order.last_sign import has_counter, silence_ns
from validators.oracles.o2_write_order.scan import AgentScan, SpecialPage
from validators.verdict import CheckResult
from validators.vmstate.pages import PageReader

_IF_IT_RAN = "If it did run at T0, say so with --agent-ran."
_GONE = (
    "The agent had gone before T0: by the processor's counter it gave its last sign of life {seconds:.1f} s "
    "earlier, and {pages} of its pages have been used by others since. " + _IF_IT_RAN
)
REMAINS = (
    "There are {pages} agent pages in RAM and no control page. The file does not show whether their agent "
    "ran at T0, and an agent that had gone (it was killed, or its guest was reset) leaves such pages. "
    + _IF_IT_RAN
)
# Others leave their own data in a page. These are the agent's own writes, of a moment that is not T0.
_OF_AN_AGENT_THAT_RAN = frozenset(
    (
        Code.WRITE_ORDER_NEWER,
        Code.WRITE_ORDER_OLDER,
        Code.WRITE_ORDER_TORN,
        Code.WRITE_ORDER_MISPLACED,
        Code.WRITE_ORDER_WRONG_GENERATION,
        Code.WRITE_ORDER_WRONG_COUNTER,
        Code.WRITE_ORDER_OTHER_MOMENT,
        Code.WRITE_ORDER_AGENT_ERRORS,
    )
)


def excuse_remains(
    reader: PageReader, scan: AgentScan, control: SpecialPage, result: CheckResult
) -> CheckResult:
    """Return SKIP where an agent's pages fail because it had gone before T0; else the result as it is.

    Args:
        reader: of the file.
        scan: all agent pages.
        control: the agent's control page.
        result: what was found by it.
    """
    if result.status is not Status.FAIL:
        return result
    if any(violation.code in _OF_AN_AGENT_THAT_RAN for violation in result.violations):
        return result
    nonce = control[PageWord.NONCE]
    silence = silence_ns(reader, control, [page for page in scan.threads if page[PageWord.NONCE] == nonce])
    if not silence:
        return result
    return replace(
        result,
        status=Status.SKIP,
        violations=(),
        total=0,
        facts={"pages of an agent that had gone, used by others": result.total},
        bad_pages={},
        reason=_GONE.format(seconds=silence / 1e9, pages=result.total),
        t0=None,
    )


def may_be_remains(reader: PageReader, scan: AgentScan) -> bool:
    """Return whether nothing shows that the agent of pages without a control page ran at T0.

    Agents of format version 1, and those without an operating system, have no counter in their thread pages;
    what they leave after a boot is told by `booted_anew`.
    """
    return all(has_counter(page) for page in scan.threads) and silence_ns(reader, None, scan.threads) != 0
