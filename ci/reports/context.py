"""What a report is made for: where the results are, where the report goes, and what they are called there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ci.reports.result import OutcomeRecord
from harness.errors import UsageError

LOG_FILES = ("test.log", "console.log", "qemu.log", "qmp.jsonl", "reproduce.sh")
"""What a person opens first of a test's folder, in that order."""

DEFAULT_ORIGIN = "snapproof"


@dataclass(frozen=True)
class Context:
    """What a report needs to know besides the results.

    Attributes:
        folder: the results folder.
        output: folder that the report goes to, None where it is printed.
        url: where others can read the results folder, "" where they cannot.
        origin: name of the CI system that reports, for KCIDB.
        build_id: KCIDB's id of the build under test, "" where it is not in KCIDB yet.
    """

    folder: Path
    output: Path | None = None
    url: str = ""
    origin: str = DEFAULT_ORIGIN
    build_id: str = ""

    def files(self, outcome: OutcomeRecord) -> list[Path]:
        """The files of a test that are worth opening and are there."""
        if not outcome.folder:
            return []
        places = (self.folder / outcome.folder / name for name in LOG_FILES)
        return [place for place in places if place.is_file()]

    def link(self, path: Path) -> str:
        """Where others can read a file of the results, "" where they cannot."""
        if not self.url:
            return ""
        return f"{self.url.rstrip('/')}/{quote(path.relative_to(self.folder).as_posix())}"

    def from_here(self, path: Path) -> str:
        """A file's path as whoever started the command would write it: relative where it is below."""
        here = Path.cwd()
        path = path.absolute()
        return str(path.relative_to(here) if path.is_relative_to(here) else path)

    def from_output(self, path: Path) -> str:
        """A file's path relative to the report.

        Raises:
            UsageError: the results are not below the folder that the report goes to.
        """
        base = (self.output or self.folder).resolve()
        path = self.folder.resolve() / path.relative_to(self.folder)
        if not path.is_relative_to(base):
            raise UsageError(
                f"The report names logs by their place below its own folder, and '{self.folder}' is not "
                f"below '{base}'; write it into the results folder or one above."
            )
        return str(path.relative_to(base))
