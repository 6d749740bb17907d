"""Judges the RAM that a machine was found to have: is each kind known, in the stream, and protected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from harness.codes import Code
from harness.qemu.memory_tree import NV_RAM, RAM, FoundRam, RamKind
from tests_functional.ram_blocks.kinds import KNOWN_KINDS, KnownKind, known_kind
from validators.checks import Problem, judged, skipped
from validators.verdict import CheckResult

_KINDS = "Each kind of RAM of the machine has a writer, or a reason why nothing writes to it."
_SAVED = "RAM that the guest can write to is in the stream."
_PROTECTED = "RAM that vCPUs and devices write to directly is write-protected while it is saved."


def judge_kinds(found: Sequence[FoundRam], table: Iterable[KnownKind] = KNOWN_KINDS) -> CheckResult:
    """Check that no RAM is of a kind that nobody has thought of.

    The facts have each kind with the RAM that is of it, and of one without a writer the reason.
    """
    table = tuple(table)
    facts: dict[str, int | float | str] = {}
    problems = []
    for kind, names in by_kind(found).items():
        entry = known_kind(kind, table)
        if entry is None:
            sentence = (
                f"RAM of a kind without a test: {kind} ({', '.join(names)}); give it a writer or a reason in "
                "tests_functional/ram_blocks/kinds.py."
            )
            problems.append(Problem(Code.RAM_BLOCKS_UNKNOWN_KIND, sentence, {"kind": str(kind)}))
            continue
        how = entry.writer.value if entry.writer else f"without a test: {entry.reason}"
        facts[f"kind {kind}"] = f"{', '.join(names)}: {how}"
    return judged("ram-kinds", _KINDS, problems, facts)


def by_kind(found: Iterable[FoundRam]) -> Mapping[RamKind, list[str]]:
    """Return the names of RAM by its kind, in the order in which they were found."""
    kinds: dict[RamKind, list[str]] = {}
    for ram in found:
        kinds.setdefault(ram.kind, []).append(ram.name)
    return kinds


def judge_saved(found: Iterable[FoundRam]) -> CheckResult:
    """Check that the guest has no RAM that is in no stream."""
    problems = [
        Problem(
            Code.RAM_BLOCKS_NOT_SAVED,
            f"The guest has {ram.used_bytes >> 10} KiB of RAM at {ram.places[0].address:#x} ('{ram.name}') "
            "that no stream has, so a restored guest finds something else there.",
            {"kind": str(ram.kind)},
        )
        for ram in found
        if not ram.kind.saved and ram.places
    ]
    return judged("ram-saved", _SAVED, problems)


def judge_protected(protected: Mapping[FoundRam, bool | None]) -> CheckResult:
    """Check that userfaultfd gets the write faults of RAM that is written directly.

    Args:
        protected: what was found while RAM was saved; None for RAM whose address in QEMU is not known.
    """
    problems: list[Problem] = []
    facts: dict[str, int | float | str] = {}
    for ram, found in protected.items():
        if not ram.kind.saved:
            continue
        words = {True: "protected", False: "not protected", None: "not known"}[found]
        facts[words] = ", ".join(filter(None, [str(facts.get(words, "")), ram.name]))
        if found is False and ram.kind.access in (RAM, NV_RAM):
            sentence = f"RAMBlock '{ram.name}' ({ram.kind}) is not write-protected while it is saved."
            problems.append(Problem(Code.RAM_BLOCKS_UNPROTECTED, sentence, {"kind": str(ram.kind)}))
    direct = [
        found for ram, found in protected.items() if ram.kind.saved and ram.kind.access in (RAM, NV_RAM)
    ]
    if all(found is None for found in direct):
        return skipped("ram-protected", _PROTECTED, "QEMU says of no such RAM where it is in its memory.")
    return judged("ram-protected", _PROTECTED, problems, facts)
