"""Makes results.json and report.html of a campaign from its explore.json, in the form that runs have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.status import Status
from snapproof.report.run_result import OutcomeRecord, RunResult
from snapproof.runs.results_folder import write_results

_NAME = "explore"
_FIGURES = (
    "lists", "proofs", "pages_compared", "pages_written_during_saves", "checked", "seconds",
)  # fmt: skip
_MOST_VIOLATIONS = 20


def result_of(summary: Mapping[str, Any], command: Sequence[str]) -> RunResult:
    """Return the results of a campaign, or of several that were merged.

    The lists are one test, and each cause is one: XFAIL if it is in the baseline, else FAIL.

    Args:
        summary: the content of explore.json.
        command: the command line that repeats it.
    """
    outcomes = [_lists(summary), *_known(summary), *_findings(summary)] if summary["lists"] else []
    return RunResult(
        outcomes, summary["started"], summary["seconds"], command, environment=dict(summary["environment"])
    )


def write_campaign(folder: Path, summary: Mapping[str, Any], command: Sequence[str]) -> None:
    """Write results.json, report.html and the other reports of a campaign into its folder.

    Raises:
        SetupBroken: the disk is full or the folder is gone.
    """
    write_results(folder, result_of(summary, command))


def _lists(summary: Mapping[str, Any]) -> OutcomeRecord:
    silent, lists = len(summary["without_verdict"]), summary["lists"]
    figures = {name: summary[name] for name in _FIGURES if name in summary}
    figures |= {"things_reached": len(summary["reached"]), "lists_without_verdict": silent}
    if silent >= lists:
        sentence = f"None of {lists:,} lists has a verdict: {summary['without_verdict'][0]}"
        return OutcomeRecord(f"{_NAME}.lists", Status.ERROR, sentence, summary["seconds"], figures=figures)
    sentence = f"{lists:,} lists of steps were run and judged; what they found is beside this."
    return OutcomeRecord(f"{_NAME}.lists", Status.PASS, sentence, summary["seconds"], figures=figures)


def _known(summary: Mapping[str, Any]) -> Iterator[OutcomeRecord]:
    for name, times in sorted(summary["known_issues"].items()):
        sentence = f"The known issue {name} showed in {times} lists."
        check = _check(Status.XFAIL, sentence, (), name)
        yield OutcomeRecord(
            f"{_NAME}.known.{name}", Status.XFAIL, sentence, checks=(check,), figures={"times": times}
        )


def _findings(summary: Mapping[str, Any]) -> Iterator[OutcomeRecord]:
    for number, finding in enumerate(summary["findings"], 1):
        sentence, steps = finding["sentence"], finding["steps"]["steps"]
        said = ", ".join(step["kind"] for step in steps) or "no step"
        check = _check(Status.FAIL, f"{len(steps)} steps: {said}.", finding["violations"])
        yield OutcomeRecord(
            f"{_NAME}.finding.{number:02d}-{finding['violations'][0]['code'].replace('.', '-')}",
            Status.FAIL,
            sentence,
            checks=(check,),
            figures={"times": finding["times"], "steps": len(steps), "stable": finding["stable"]},
            folder=f"findings/{finding['folder']}",
        )


def _check(
    status: Status, reason: str, violations: Sequence[Mapping[str, Any]], known: str = ""
) -> dict[str, Any]:
    return {
        "name": "explore",
        "explanation": "Each snapshot is the guest at T0, and guest and QEMU are as the steps imply.",
        "status": status.value,
        "reason": reason,
        "total": len(violations),
        "facts": {},
        "ranges": [],
        "violations": [dict(violation) for violation in violations[:_MOST_VIOLATIONS]],
        **({"known_issue": known} if known else {}),
    }
