"""Runs `snapproof bench ab --self-check`: counts how often the gate is wrong on this host with this QEMU."""

from __future__ import annotations

from collections import Counter
from typing import Any

from harness.status import EXIT_FAIL, EXIT_PASS
from snapproof.bench.ab.gate import GateResult, ratio_text
from snapproof.bench.ab.pairs import PairedComparison
from snapproof.bench.ab.statistics import RatioVerdict


def self_check(comparison: PairedComparison, number: int, planted: float) -> tuple[dict[str, Any], int]:
    """Run gates of A against itself, alternately without and with a slowdown, and count the verdicts.

    Args:
        comparison: the comparison of A with itself.
        number: how many gates of each kind.
        planted: the share by which A is slowed.

    Returns:
        The part of ab.json, and the exit code: 0 if there was no false alarm and each slowdown was found,
        else 1.
    """
    slow = comparison.slowed(planted)
    same: list[GateResult] = []
    slower: list[GateResult] = []
    for one in range(1, number + 1):
        same.append(comparison.gate(number=2 * one - 1))
        _show(comparison, one, "A against itself", same[-1])
        slower.append(comparison.gate(slow, number=2 * one))
        _show(comparison, one, f"A slowed by {100 * planted:g} %", slower[-1])
    false = sum(result.verdict is RatioVerdict.WORSE for result in same)
    found = sum(result.verdict is RatioVerdict.WORSE for result in slower)
    print(f"A against itself: {_counts(same)}")
    print(f"A slowed by {100 * planted:g} %: {_counts(slower)}")
    print(slow.text())
    good = false == 0 and found == number
    print(
        f"{'PASS' if good else 'FAIL'}: {false} false alarms in {number} gates of A against itself; the "
        f"planted slowdown was found in {found} of {number}."
    )
    content = {
        "false_alarms": false,
        "found": found,
        "same": [result.to_json() for result in same],
        "slowed": [result.to_json() for result in slower],
        "slept": slow.slept(),
    }
    return content, EXIT_PASS if good else EXIT_FAIL


def _show(comparison: PairedComparison, one: int, what: str, result: GateResult) -> None:
    comparison.progress.done()
    found = f"{ratio_text(result.found)}, {result.found.pairs} pairs"
    print(f"{one:3}  {what:20} {result.verdict.value:9} {found}", flush=True)


def _counts(results: list[GateResult]) -> str:
    counts = Counter(result.verdict for result in results)
    return ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in RatioVerdict)
