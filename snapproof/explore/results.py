"""Makes results.json and report.html of a campaign from its explore.json, in the form that runs have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.plural import counted
from harness.status import EXIT_FAIL, EXIT_INTERRUPTED, EXIT_PASS, Status
from snapproof.report.run_result import OutcomeRecord, RunResult
from snapproof.runs.results_folder import write_results

RUNNING, INTERRUPTED, ENDED = "running", "interrupted", "ended"
"""States of a campaign: it runs, or was killed; it was interrupted; it has come to its end."""

_NAME = "explore"
_FIGURES = ("lists", "pages_compared", "pages_written_during_saves", "checked", "seconds")
_MOST_VIOLATIONS = 20


def result_of(summary: Mapping[str, Any], command: Sequence[str]) -> RunResult:
    """Return the results of a campaign, or of several that were merged.

    The lists are one test, and each cause is one: XFAIL if it is in the baseline, else FAIL.

    Args:
        summary: the content of explore.json.
        command: the command line that repeats it.
    """
    outcomes = [_lists(summary), *_known(summary), *_findings(summary)] if _has_run(summary) else []
    outcomes += _jobs(summary)
    return RunResult(
        outcomes, summary["started"], summary["seconds"], command, environment=dict(summary["environment"])
    )


def write_campaign(folder: Path, summary: Mapping[str, Any], command: Sequence[str]) -> None:
    """Write results.json, report.html and the other reports of a campaign into its folder.

    Raises:
        SetupBroken: the disk is full or the folder is gone.
    """
    write_results(folder, result_of(summary, command))


def _has_run(summary: Mapping[str, Any]) -> bool:
    """Return whether there is something to say: one that was interrupted before its first list says that."""
    return bool(summary["lists"]) or summary.get("state") == INTERRUPTED


def _lists(summary: Mapping[str, Any]) -> OutcomeRecord:
    silent = len(summary["without_verdict"])
    figures = {name: summary[name] for name in _FIGURES if name in summary}
    figures |= {"things_reached": len(summary["reached"]), "lists_without_verdict": silent}
    # Under the name of a run's totals.
    figures |= {"snapshots_proven": summary["proofs"]}
    status, sentence = _verdict(summary)
    return OutcomeRecord(f"{_NAME}.lists", status, sentence, summary["seconds"], figures=figures)


def _verdict(summary: Mapping[str, Any]) -> tuple[Status, str]:
    """Return what the lists say together, beside causes and known issues."""
    state, lists = summary.get("state", ENDED), summary["lists"]
    taken = f"{counted(lists, 'list')} of steps"
    if state == INTERRUPTED:
        return Status.ERROR, f"The campaign was interrupted after {taken}; what they found is beside this."
    if state == RUNNING:
        said = f"The campaign has not ended, or was killed: this is as of {taken}"
        return Status.ERROR, f"{said}, and what they found is beside this."
    if len(summary["without_verdict"]) >= lists:
        return Status.ERROR, f"None of {taken} has a verdict: {summary['without_verdict'][0]}"
    return Status.PASS, f"Ran and judged {taken}; what they found is beside this."


def _jobs(summary: Mapping[str, Any]) -> Iterator[OutcomeRecord]:
    """Yield an outcome for each of several campaigns side by side that ended with an error."""
    for job in summary.get("jobs", ()):
        code, name = job["exit_code"], job["folder"]
        if code in (EXIT_PASS, EXIT_FAIL, EXIT_INTERRUPTED):
            continue
        sentence = f"The campaign '{name}' ended with exit code {code}; '{job['log']}' says why."
        yield OutcomeRecord(f"{_NAME}.{name}", Status.ERROR, sentence, folder=name if job["kept"] else "")


def _known(summary: Mapping[str, Any]) -> Iterator[OutcomeRecord]:
    shown = summary.get("known_shown", {})
    for name, times in sorted(summary["known_issues"].items()):
        sentence = known_sentence(name, times, shown.get(name, {}))
        check = _check(Status.XFAIL, sentence, (), name)
        yield OutcomeRecord(
            f"{_NAME}.known.{name}",
            Status.XFAIL,
            sentence,
            checks=(check,),
            figures={"times": times},
            folder=shown.get(name, {}).get("folder", ""),
        )


def known_sentence(name: str, times: int, shown: Mapping[str, Any]) -> str:
    """Return a sentence that says how often a known issue showed, and where first.

    Args:
        name: the issue's id.
        times: how often.
        shown: its entry in `known_shown`, empty for none.
    """
    number, seed = shown.get("list"), shown.get("seed")
    first = f", first in list {number}" if number else ""
    of_seed = f" of seed {seed}" if number and seed is not None else ""
    there = f" (files in '{shown['folder']}')" if shown.get("folder") else ""
    return f"The known issue {name} showed in {counted(times, 'list')}{first}{of_seed}{there}."


def _findings(summary: Mapping[str, Any]) -> Iterator[OutcomeRecord]:
    for number, finding in enumerate(summary["findings"], 1):
        sentence, steps = finding["sentence"], finding["steps"]["steps"]
        said = ", ".join(step["kind"] for step in steps) or "no step"
        check = _check(Status.FAIL, f"{counted(len(steps), 'step')}: {said}.", finding["violations"])
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
