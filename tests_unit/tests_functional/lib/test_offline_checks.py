"""Contract: an oracle that did not look at all of its pages is no agreement."""

from __future__ import annotations

from tests_functional.lib.offline_checks import judge_oracles
from tests_functional.lib.save import Flow
from tests_unit.support.scenario_values import (
    AT_T0,
    GOLDEN_PAGES,
    PAGES,
    SOURCE,
    check,
    offline,
    sentences,
    snapshot,
    write_order,
)
from validators.checks import skipped


def test_t0_is_what_the_write_order_oracle_found() -> None:
    """T0 per thread and by the guest's clock; None where the oracle could not tell."""
    assert offline(check("header"), write_order()).t0 == AT_T0
    assert offline(check("header")).t0 is None
    assert offline(skipped("write-order", "x", "There is no agent.")).t0 is None


def test_complete_oracles_pass() -> None:
    """All agent pages verified, and all golden pages compared where there is a golden image."""
    golden = check("golden", facts={"pages compared": GOLDEN_PAGES})
    assert sentences(judge_oracles(offline(write_order()), snapshot(), SOURCE)) == []
    assert (
        sentences(judge_oracles(offline(write_order(), golden), snapshot(Flow.STOP_MIGRATE_CONT), SOURCE))
        == []
    )


def test_skipped_write_order_is_a_violation() -> None:
    """A file that lost the agent's traces must not pass as one without an agent."""
    lost = skipped("write-order", "x", "There is no agent.")
    (sentence,) = sentences(judge_oracles(offline(lost), snapshot(), SOURCE))
    assert "not found in the file: There is no agent." in sentence
    (sentence,) = sentences(judge_oracles(offline(check("header")), snapshot(), SOURCE))
    assert "it did not run" in sentence


def test_fewer_verified_pages_are_a_violation() -> None:
    """An oracle that passed on a part of the agent's pages has not looked."""
    order = write_order(**{"pages verified": PAGES - 1})
    assert sentences(judge_oracles(offline(order), snapshot(), SOURCE)) == [
        "The agent has 1000 pages, 999 were verified."
    ]


def test_golden_not_fully_compared_is_a_violation() -> None:
    """A golden oracle that compared less than all, or did not run, is no agreement."""
    partly = check("golden", facts={"pages compared": GOLDEN_PAGES - 1})
    for verdict, count in ((offline(write_order(), partly), 63), (offline(write_order()), 0)):
        assert sentences(judge_oracles(verdict, snapshot(Flow.STOP_MIGRATE_CONT), SOURCE)) == [
            f"The golden image has 64 pages, {count} were compared."
        ]
