"""What `snapproof bench downtime` prints: the plan, and the table of stuns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests_functional.scenarios.bench.figures import Spread
from tests_functional.scenarios.bench.plan import Plan
from tests_functional.scenarios.bench.summary import Promise, Row

_HEADS = (
    "writer",
    "sink",
    "RAM MiB",
    "way",
    "n",
    "stun ms, min..max",
    "second ms",
    "total ms",
    "gap ms",
    "stall p99 / max us",
)


def plan_lines(plan: Plan, whole: bool) -> list[str]:
    """The plan in short, or with each case.

    Args:
        plan: to tell.
        whole: whether to list its cases.
    """
    lines = []
    if whole:
        lines += [f"{case.name:44} {case.seconds:5.0f} s each" for case in plan.cases]
    lines += [f"Left out: {what}. {why}" for what, why in plan.left_out]
    lines.append(
        f"{len(plan.cases)} cases x {plan.repeats} = {len(plan.cases) * plan.repeats} samples of "
        f"{len(plan.guests())} guests, about {plan.seconds / 60:.0f} minutes on two idle cores without KVM, "
        f"at most {plan.disk_mib} MiB of disk; seed {plan.seed}"
    )
    return lines


def table_lines(rows: Sequence[Row], kept: Promise | None, left_out: Mapping[str, str]) -> list[str]:
    """The table, and below it what it says about the promise."""
    cells = [_HEADS, *(_cells(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEADS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    if any(row.given_up for row in rows):
        lines.append(
            "Given up: the pre-copy did not catch up with the guest's writes, so the guest was stopped."
        )
    lines += [f"Left out: {what}. {why}" for what, why in left_out.items()]
    return [*lines, *_promise_lines(kept)]


def _cells(row: Row) -> tuple[str, ...]:
    figures = row.figures
    stall = f"{_one(figures['stall_p99_us'])} / {_one(figures['stall_max_us'])}"
    return (
        row.writer,
        row.sink,
        str(row.ram_mib),
        row.way,
        f"{row.n}"
        + (f" (+{row.failed} failed)" if row.failed else "")
        + (f" ({row.given_up} given up)" if row.given_up else ""),
        f"{row.stun.median:.1f}, {row.stun.min:.1f}..{row.stun.max:.1f}" if row.stun else "-",
        f"{again.median:.1f}" if (again := figures["again_stun_ms"]) else "-",
        _one(figures["total_ms"]),
        _one(figures["guest_gap_ms"]),
        stall,
    )


def _one(figure: Spread | None) -> str:
    return f"{figure.median:,.0f}" if figure else "-"


def _promise_lines(kept: Promise | None) -> list[str]:
    if kept is None:
        return []
    sizes = f"from {kept.smallest_mib} to {kept.largest_mib} MiB"
    lines = [
        f"{sizes[0].upper()}{sizes[1:]} the stun of a background snapshot grows by {kept.background:.2f}."
    ]
    if kept.again is not None and kept.again_ms is not None:
        lines.append(
            f"{sizes[0].upper()}{sizes[1:]} that of a second one of the same process grows by "
            f"{kept.again:.2f}, to {kept.again_ms:.1f} ms: the first has split the guest's huge pages."
        )
    if kept.stopped is not None:
        lines.append(f"{sizes[0].upper()}{sizes[1:]} that of stop-and-save grows by {kept.stopped:.2f}.")
    if kept.gain is not None:
        lines.append(
            f"At {kept.largest_mib} MiB stop-and-save stuns the guest {kept.gain:.1f} times as long."
        )
    return lines
