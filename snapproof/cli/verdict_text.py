"""Makes the lines of text in which `snapproof run` and `snapproof check` print verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from harness.plural import counted
from harness.status import Status
from snapproof.cli.streams import shown

if TYPE_CHECKING:
    # `check` prints verdicts too, and starts without what results are read with.
    from snapproof.report.run_result import OutcomeRecord, RunResult

_SHOWN_VIOLATIONS = 5
_SHOWN_RANGES = 10
_NOTE_LENGTH = 300

# Figure name to (label, unit); the order is the order of printing.
_FIGURES = {
    "stun_ms": ("stun", "ms"),
    "downtime_ms": ("downtime (QEMU)", "ms"),
    "guest_stopped_ms": ("guest stopped", "ms"),
    "total_ms": ("total time", "ms"),
    "largest_write_stall_us": ("largest write stall", "us"),
    "file_bytes": ("file", "bytes"),
    "pages_in_stream": ("pages in the stream", ""),
    "pages_compared_with_golden": ("pages compared with the golden image", ""),
    "agent_pages_verified_offline": ("agent pages verified offline", ""),
    "agent_pages_verified_in_restored_guest": ("agent pages verified in the restored guest", ""),
    "pages_written_during_save": ("pages written while RAM was saved", ""),
}


def outcome_lines(outcome: OutcomeRecord) -> Iterator[str]:
    """Yield a test's verdict: one line, then its figures for each snapshot, then its failed checks."""
    yield f"{outcome.status.value:5} {outcome.name} ({outcome.seconds:.1f} s): {shown(outcome.sentence)}"
    yield from _figure_lines(outcome.figures)
    for check in outcome.checks:
        if check["status"] not in (Status.PASS.value, Status.DONE.value):
            yield from check_lines(check)
    yield from _note_lines(outcome)


def _note_lines(outcome: OutcomeRecord) -> Iterator[str]:
    """Yield what a check saw that is no fault of the subject, such as a crash of another job's program."""
    # `check` prints verdicts too, and has no such notes.
    from harness.linux.kernel_log import NOTES

    seen = {
        (name, shown(str(check["facts"][name])))
        for check in outcome.checks
        for name in NOTES
        if name in check.get("facts", {})
    }
    for name, text in sorted(seen):
        yield f"      note: {name}: {text if len(text) <= _NOTE_LENGTH else text[: _NOTE_LENGTH - 3] + '...'}"


def result_line(result: RunResult) -> str:
    """Return the status of a whole run and the number of tests with each status."""
    counts = ", ".join(f"{count} {name}" for name, count in result.counts().items())
    return f"{result.status.value if result.status else 'NOTHING RAN'}: {counts}"


def check_lines(check: Mapping[str, Any]) -> Iterator[str]:
    """Yield one check: its name and explanation, and its first violations with their hexdumps."""
    reason = check.get("reason") or check["explanation"]
    yield f"      {check['status']} {check['name']}: {shown(reason)}"
    violations = check.get("violations", [])
    for violation in violations[:_SHOWN_VIOLATIONS]:
        yield f"        {shown(violation['sentence'])}"
        place = _place(violation)
        if place:
            yield f"          {place}"
        yield from (f"          {line}" for line in violation.get("hexdump", "").splitlines())
    more = check.get("total", 0) - min(len(violations), _SHOWN_VIOLATIONS)
    if more > 0:
        kept = "all" if check["total"] == len(violations) else f"the first {len(violations):,}"
        yield f"        ... and {more:,} more; {kept} are in the JSON result."


def _place(violation: Mapping[str, Any]) -> str:
    """Return the place of a violation and the expected and found values, "" where it has none."""
    names = (("gpa", "guest-physical"), ("file_offset", "file offset"))
    where = ", ".join(f"{word} 0x{violation[name]:x}" for name, word in names if name in violation)
    said = [f"{name} {violation[name]}" for name in ("expected", "found") if violation.get(name)]
    return "; ".join([where, *said] if where else said)


def range_text(block: str, start: int, end: int, pages: int) -> str:
    """Return the text for a range of pages of a RAMBlock; offsets in bytes."""
    return f"{shown(block)} 0x{start:x} to 0x{end:x}: {counted(pages, 'page')}"


def range_lines(check: Mapping[str, Any]) -> Iterator[str]:
    """Yield the bad pages of one check as ranges, if there are more than violations are printed."""
    ranges = check.get("ranges", [])
    pages = sum(found["pages"] for found in ranges)
    if pages <= _SHOWN_VIOLATIONS:
        return
    yield f"        {counted(pages, 'bad page')} in {counted(len(ranges), 'range')}:"
    for found in ranges[:_SHOWN_RANGES]:
        yield f"          {range_text(found['block'], found['start'], found['end'], found['pages'])}"
    if len(ranges) > _SHOWN_RANGES:
        yield f"          ... and {len(ranges) - _SHOWN_RANGES:,} more ranges; all are in the JSON result."


def _figure_lines(figures: Mapping[str, float | int | str]) -> Iterator[str]:
    labels = dict.fromkeys(name.rpartition("/")[0] for name in figures if "/" in name)
    for label in labels:
        shown = [
            f"{text} {figures[f'{label}/{name}']:,}{f' {unit}' if unit else ''}"
            for name, (text, unit) in _FIGURES.items()
            if isinstance(figures.get(f"{label}/{name}"), int | float)
        ]
        yield f"      {label}:"
        yield from (f"        {line}" for line in shown)
    if "stun_ratio" in figures:
        yield (
            f"      Stop-and-save stuns the guest {figures['stun_ratio']} times as long as the shortest "
            f"live stun, {figures['shortest_live_stun_ms']} ms."
        )
