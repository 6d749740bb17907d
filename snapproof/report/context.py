"""The context of a report: its folders and URLs, and the names that it has for the files of the results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from harness.errors import UsageError
from snapproof.report.run_result import OutcomeRecord

LOG_FILES = ("test.log", "console.log", "qemu.log", "qmp.jsonl", "reproduce.sh")
"""The files of a test's folder that a report names, in this order."""

DEFAULT_ORIGIN = "snapproof"


@dataclass(frozen=True)
class Context:
    """The values that a report needs besides the results.

    Attributes:
        folder: the results folder.
        output: the folder that the report is written to, None if it is printed.
        url: where others can read the results folder, "" if they cannot.
        origin: for KCIDB, the name of the CI system that reports.
        build_id: for KCIDB, the id of the build under test, "" if KCIDB does not have it yet.
    """

    folder: Path
    output: Path | None = None
    url: str = ""
    origin: str = DEFAULT_ORIGIN
    build_id: str = ""

    def files(self, outcome: OutcomeRecord) -> list[Path]:
        """Return those of a test's `LOG_FILES` that exist."""
        if not outcome.folder:
            return []
        places = (self.folder / outcome.folder / name for name in LOG_FILES)
        return [place for place in places if place.is_file()]

    def link(self, path: Path) -> str:
        """Return the URL at which others can read a file of the results, "" if they cannot."""
        if not self.url:
            return ""
        return f"{self.url.rstrip('/')}/{quote(path.relative_to(self.folder).as_posix())}"

    def from_here(self, path: Path) -> str:
        """Return a file's path from the current folder: relative if it is below it, else absolute."""
        here = Path.cwd()
        path = path.absolute()
        return str(path.relative_to(here) if path.is_relative_to(here) else path)

    def from_output(self, path: Path) -> str:
        """Return a file's path relative to the report.

        Raises:
            UsageError: the results folder is not below the folder that the report is written to.
        """
        base = (self.output or self.folder).resolve()
        path = self.folder.resolve() / path.relative_to(self.folder)
        if not path.is_relative_to(base):
            raise UsageError(
                f"The report names logs relative to its own folder, and '{self.folder}' is not below "
                f"'{base}'; write the report into the results folder or a folder above it."
            )
        return str(path.relative_to(base))
