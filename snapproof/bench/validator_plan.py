"""The files that `snapproof bench validator` makes and reads where no file is given."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import UsageError


@dataclass(frozen=True)
class BenchFile:
    """A kind of file that is made.

    Attributes:
        name: on the command line and in the table.
        reason: why it is measured.
        ram_mib: of the guest.
        coverage: share of it that the agent's pages fill.
        untouched_mib: memory beside that, which nobody writes; then the file is sparse (mapped-ram) and
            has no golden image.
    """

    name: str
    reason: str
    ram_mib: int
    coverage: float
    untouched_mib: int = 0


FILES = (
    BenchFile("512M", "a small guest, where the start of Python counts", 512, 0.95),
    BenchFile("1.3G", "from here on reading counts", 1280, 0.95),
    BenchFile("6G", "full of agent pages, each of which takes memory", 5824, 0.97),
    BenchFile("100G-sparse", "pages that are in no file", 512, 0.5, untouched_mib=100 << 10),
)
"""The files, in the order in which they are made."""


def chosen_files(names: str | None) -> list[BenchFile]:
    """Return the files with these names, with commas between; all of them for None.

    Raises:
        UsageError: there is no file of a name.
    """
    known = {file.name: file for file in FILES}
    wanted = list(known) if names is None else names.split(",")
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise UsageError(f"--make knows no file '{unknown[0]}'; choose from {', '.join(known)}.")
    return [known[name] for name in wanted]
