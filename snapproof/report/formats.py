"""The table of formats for results; hands a finished report to the CI system that reads it.

A new format touches three files: a module with a function from `RunResult` and `Context` to text, a row of
`FORMATS`, and a test in which a reader of the format reads it.

"""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from harness.errors import MachineryMissing, SetupBroken, UsageError
from snapproof.report.context import Context
from snapproof.report.run_result import RunResult

_Render = Callable[[RunResult, Context], str]
_HELP_WIDTH = 79


@dataclass(frozen=True)
class Format:
    """A way to write results down.

    Attributes:
        name: for `--format`.
        file: name of its file in a results folder.
        reader: who or what reads it.
        xfail: what an XFAIL becomes in it.
        error: what an ERROR or a MISS becomes in it.
        renderer: `module:function`; the module is imported only when the format is wanted.
        always: whether every results folder has it.
        variable: environment variable that names the CI system's file to append the report to, "" for none.
        printed: whether the CI system reads it from the command's output.
    """

    name: str
    file: str
    reader: str
    xfail: str
    error: str
    renderer: str
    always: bool = False
    variable: str = ""
    printed: bool = False

    def render(self, result: RunResult, context: Context) -> str:
        """Return the report's text.

        Raises:
            MachineryMissing: this installation lacks the format.
            UsageError: the results or the options do not fit it.
        """
        module, _, function = self.renderer.partition(":")
        try:
            return cast(_Render, getattr(importlib.import_module(module), function))(result, context)
        except ModuleNotFoundError as error:
            raise MachineryMissing(
                f"This installation cannot write '{self.name}': the module '{error.name}' is not there."
            ) from error


FORMATS = {
    entry.name: entry
    for entry in (
        Format(
            name="junit",
            file="junit.xml",
            reader="GitLab, Jenkins and most other CI systems; in every results folder",
            xfail="skipped",
            error="error",
            renderer="snapproof.report.junit:junit_xml",
            always=True,
        ),
        Format(
            name="ktap",
            file="results.ktap",
            reader="kernel CI systems and readers of TAP; in every results folder",
            xfail="'ok # XFAIL'",
            error="'not ok # ERROR'",
            renderer="snapproof.report.ktap:ktap_text",
            always=True,
        ),
        Format(
            name="html",
            file="report.html",
            reader="people; in every results folder",
            xfail="the same",
            error="the same",
            renderer="snapproof.report.html:html_page",
        ),
        Format(
            name="kcidb",
            file="kcidb.json",
            reader="KCIDB v5.3, through kcidb-submit",
            xfail="FAIL with an incident of the known issue",
            error="the same",
            renderer="snapproof.report.kcidb:kcidb_json",
        ),
        Format(
            name="tmt",
            file="results.yaml",
            reader="tmt and Testing Farm",
            xfail="pass with a note",
            error="error",
            renderer="snapproof.report.tmt_results:tmt_results",
        ),
        Format(
            name="lava",
            file="lava.txt",
            reader="LAVA, through send-to-lava.sh",
            xfail="skip",
            error="fail",
            renderer="snapproof.report.lava:lava_lines",
        ),
        Format(
            name="github-summary",
            file="summary.md",
            reader="GitHub Actions: the page of a run",
            xfail="the same",
            error="the same",
            renderer="snapproof.report.github:github_summary",
            variable="GITHUB_STEP_SUMMARY",
        ),
        Format(
            name="github-annotations",
            file="annotations.txt",
            reader="GitHub Actions: errors beside the run",
            xfail="notice",
            error="error",
            renderer="snapproof.report.github:github_annotations",
            printed=True,
        ),
    )
}
"""The formats by their name for `--format`."""


def formats_help() -> str:
    """Return the table as a help text: file, reader, and what becomes of XFAIL, ERROR and MISS."""
    width = max(map(len, FORMATS)) + 4
    lines = ["Formats:"]
    for entry in FORMATS.values():
        lines += textwrap.wrap(
            f"{entry.file}, for {entry.reader}. XFAIL: {entry.xfail}; ERROR, MISS: {entry.error}.",
            _HELP_WIDTH,
            initial_indent=f"  {entry.name}".ljust(width),
            subsequent_indent=" " * width,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def named_format(name: str) -> Format:
    """Return the format of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in FORMATS:
        raise UsageError(f"There is no format '{name}'; there are {', '.join(FORMATS)}.")
    return FORMATS[name]


def deliver(wanted: Format, text: str) -> None:
    """Hand a report to the CI system: append it to the file that the format's variable names, or print it.

    Raises:
        SetupBroken: the CI system's file cannot be written.
    """
    named = os.environ.get(wanted.variable, "") if wanted.variable else ""
    if not named:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        with Path(named).open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
    except OSError as error:
        raise SetupBroken(
            f"The report could not be added to '{named}', which ${wanted.variable} names: {error.strerror}."
        ) from error


def delivered_anyway(wanted: Format) -> bool:
    """Tell whether the CI system takes this report itself, besides the file in the results folder."""
    return wanted.printed or bool(wanted.variable and os.environ.get(wanted.variable))
