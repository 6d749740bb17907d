"""Writes results for GitHub Actions: the Markdown summary of a step, and annotations.

Source: docs.github.com, "Workflow commands for GitHub Actions" (a summary has at most 1 MiB, a step at most
ten errors, warnings and notices each), and packages/core/src/command.ts of actions/toolkit (core 1.10), which
says how a command is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from harness.status import EXIT_ALL_SKIPPED, Status
from snapproof.report.context import Context
from snapproof.report.run_result import OutcomeRecord, RunResult
from snapproof.report.text import one_line

_MOST_BYTES = 900_000
_MOST_ANNOTATIONS = 10
_SENTENCE_LETTERS = 600
_QUIET = (Status.PASS, Status.DONE, Status.SKIP)
_LEVELS = {
    Status.FAIL: "error",
    Status.ERROR: "error",
    Status.MISS: "error",
    Status.XPASS: "warning",
    Status.XFAIL: "notice",
}
_SHOWN_ENVIRONMENT = ("qemu", "host_kernel", "host_architecture", "accelerator", "guest_image", "hosts")
_VERDICTS = ("passed", "failed", "broken", "nothing ran", "all skipped")
_MARKUP = re.compile(r"([\\`*_{}\[\]()#!|~$])")


def github_summary(result: RunResult, context: Context) -> str:
    """Return the summary of a step as Markdown: verdict, environment, tests that did not pass, all others."""
    counts = ", ".join(f"{count} {name}" for name, count in result.counts().items())
    lines = [
        f"## snapproof: {_VERDICTS[result.exit_code]}",
        "",
        f"{counts or 'No test'} in {result.seconds:.0f} s.",
        "",
        *_environment(result),
    ]
    loud = [outcome for outcome in result.outcomes if outcome.status not in _QUIET]
    skipped = [outcome for outcome in result.outcomes if outcome.status is Status.SKIP]
    passed = [outcome for outcome in result.outcomes if outcome.status in (Status.PASS, Status.DONE)]
    for title, outcomes in (("Not passed", loud), ("Skipped", skipped), ("Passed", passed)):
        if outcomes:
            lines += ["<details>" if outcomes is not loud else "<details open>"]
            lines += [f"<summary>{title}: {len(outcomes)}</summary>", "", *_table(outcomes, context)]
            lines += ["", "</details>", ""]
    return _bounded(lines)


def _environment(result: RunResult) -> Iterator[str]:
    yield "| | |"
    yield "|---|---|"
    for label, environment in result.environments().items():
        for name in _SHOWN_ENVIRONMENT:
            if environment.get(name):
                title = f"{label}: {name}" if label else name
                yield f"| {_markdown(title)} | {_markdown(str(environment[name]))} |"
    yield ""


def _table(outcomes: Sequence[OutcomeRecord], context: Context) -> Iterator[str]:
    yield "| status | test | s | |"
    yield "|---|---|--:|---|"
    # The worst come first, because a summary that is too long is cut at its end.
    order = list(Status)
    for outcome in sorted(outcomes, key=lambda outcome: order.index(outcome.status)):
        name = _markdown(outcome.name)
        links = [link for path in context.files(outcome)[:1] if (link := context.link(path))]
        if links:
            name = f"[{name}](<{links[0]}>)"
        yield f"| {outcome.status.value} | {name} | {outcome.seconds:.0f} | {_markdown(outcome.sentence)} |"


def _markdown(text: str) -> str:
    """Escape text for a table cell of GitHub's Markdown."""
    line = one_line(text, _SENTENCE_LETTERS).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", line)


def _bounded(lines: Sequence[str]) -> str:
    size = 0
    kept: list[str] = []
    for line in lines:
        size += len(line.encode(errors="replace")) + 1
        if size > _MOST_BYTES:
            kept += ["", f"({len(lines) - len(kept)} more lines; see results.json.)", "", "</details>"]
            break
        kept.append(line)
    return "\n".join(kept) + "\n"


def github_annotations(result: RunResult, context: Context) -> str:
    """Return workflow commands for the step to print: errors for failures, notices for known issues.

    GitHub shows ten of a kind. If there are more, the tenth names the others.
    """
    lines = []
    for level in ("error", "warning", "notice"):
        found = [outcome for outcome in result.outcomes if _LEVELS.get(outcome.status) == level]
        order = list(Status)
        found.sort(key=lambda outcome: order.index(outcome.status))
        shown = found if len(found) <= _MOST_ANNOTATIONS else found[: _MOST_ANNOTATIONS - 1]
        lines += [_annotation(level, outcome, context) for outcome in shown]
        if len(found) > len(shown):
            names = ", ".join(one_line(outcome.name) for outcome in found[len(shown) :])
            text = f"{len(found) - len(shown)} more: {names}"[:_SENTENCE_LETTERS]
            lines.append(f"::{level} title=snapproof::{_data(text)}")
    if not result.outcomes or result.exit_code == EXIT_ALL_SKIPPED:
        said = "All tests were skipped" if result.outcomes else "Nothing ran"
        lines.append(f"::error title=snapproof::{said}: nothing was tested.")
    return "".join(f"{line}\n" for line in lines)


def _annotation(level: str, outcome: OutcomeRecord, context: Context) -> str:
    properties = {"title": f"snapproof: {outcome.status.value} {one_line(outcome.name)}"}
    files = context.files(outcome)
    if files:
        properties = {"file": context.from_here(files[0]), **properties}
    shown = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    text = "\n".join(one_line(line, _SENTENCE_LETTERS) for line in outcome.sentence.splitlines())
    return f"::{level} {shown}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
