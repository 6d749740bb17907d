"""Runs programs of unpacked Debian packages with the libraries beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from guest_images.architectures import AMD64, Architecture
from harness.errors import SetupBroken


@dataclass(frozen=True)
class Loader:
    """The dynamic loader of unpacked packages, and where it is to look for libraries.

    Attributes:
        path: below the root.
        libraries: folders below the root.
    """

    path: str
    libraries: tuple[str, ...]

    def command(self, root: Path, program: str) -> list[str]:
        """The beginning of a command line that runs a program below `root`.

        The machine's ld.so.cache is left out, since a library that the packages lack must fail at once and
        not come from the machine.
        """
        libraries = ":".join(str(root / folder) for folder in self.libraries)
        return [str(root / self.path), "--inhibit-cache", "--library-path", libraries, str(root / program)]


def find_loader(root: Path, architecture: Architecture = AMD64) -> Loader:
    """The loader in unpacked packages.

    Raises:
        SetupBroken: there is none.
    """
    # Where Debian has the libraries, before and after it merged / and /usr. The loader is taken from there
    # too: Debian 11's lib64/ld-linux-x86-64.so.2 is an absolute link, which leads out of the folder.
    folders = (f"lib/{architecture.triplet}", f"usr/lib/{architecture.triplet}")
    present = tuple(path for path in folders if (root / path).is_dir())
    for path in present:
        if (root / path / architecture.loader).exists():
            return Loader(f"{path}/{architecture.loader}", present)
    raise SetupBroken(f"The unpacked packages in '{root}' have no dynamic loader.")
