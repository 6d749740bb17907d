"""The formats that results can be written in, as a table, and how a report is made and delivered."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ci.reports.context import Context
from ci.reports.result import RunResult
from harness.errors import MachineryMissing, SetupBroken, UsageError

_Render = Callable[[RunResult, Context], str]


@dataclass(frozen=True)
class Format:
    """One way to write results down.

    Attributes:
        name: for `--format`.
        file: its name in a results folder.
        about: who reads it, in one line.
        renderer: `module:function` of a function from results and `Context` to text; imported when needed.
        always: whether every results folder has it.
        variable: environment variable that names a file of the CI system to append it to, "" for none.
        printed: whether the CI system reads it from the command's output.
    """

    name: str
    file: str
    about: str
    renderer: str
    always: bool = False
    variable: str = ""
    printed: bool = False

    def render(self, result: RunResult, context: Context) -> str:
        """The report's text.

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
            "junit",
            "junit.xml",
            "GitLab, Jenkins and most other CI systems",
            "ci.reports.junit:junit_xml",
            always=True,
        ),
        Format(
            "ktap",
            "results.ktap",
            "kernel CI systems and readers of TAP",
            "ci.reports.ktap:ktap_text",
            always=True,
        ),
        Format("html", "report.html", "people", "ci.reports.html_page:html_page"),
        Format("kcidb", "kcidb.json", "KCIDB v5.3, through kcidb-submit", "ci.reports.kcidb:kcidb_json"),
        Format("tmt", "results.yaml", "tmt and Testing Farm", "ci.reports.tmt_results:tmt_results"),
        Format("lava", "lava.txt", "LAVA, through send-to-lava.sh", "ci.reports.lava:lava_lines"),
        Format(
            "github-summary",
            "summary.md",
            "GitHub Actions: the page of a run",
            "ci.reports.github:github_summary",
            variable="GITHUB_STEP_SUMMARY",
        ),
        Format(
            "github-annotations",
            "annotations.txt",
            "GitHub Actions: errors beside the run",
            "ci.reports.github:github_annotations",
            printed=True,
        ),
    )
}
"""By the name for `--format`."""


def named_format(name: str) -> Format:
    """The format of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in FORMATS:
        raise UsageError(f"There is no format '{name}'; there are {', '.join(FORMATS)}.")
    return FORMATS[name]


def deliver(wanted: Format, text: str) -> None:
    """Hand a report to the CI system: append it to the file that its variable names, or print it.

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
            f"${wanted.variable} names '{named}', which cannot be written: {error.strerror}."
        ) from error


def delivered_anyway(wanted: Format) -> bool:
    """Whether the CI system takes this report itself, beside the file in the results folder."""
    return wanted.printed or bool(wanted.variable and os.environ.get(wanted.variable))
