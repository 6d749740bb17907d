"""Finds the dynamic loader in unpacked Debian packages, to run their programs with their own libraries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import SetupBroken
from harness.qemu.architectures import DEFAULT_ARCHITECTURE, Architecture


@dataclass(frozen=True)
class Loader:
    """The dynamic loader of unpacked packages and the folders of their libraries, relative to their root.

    Attributes:
        path: the loader.
        libraries: the folders that it is to search.
    """

    path: str
    libraries: tuple[str, ...]

    def command(self, root: Path, program: str, private: str = "") -> list[str]:
        """Return the beginning of a command line that runs a program with the packages' libraries.

        The loader does not read this machine's ld.so.cache: a library that the packages lack must be an
        error, not be taken from the machine.

        Args:
            root: root of the unpacked packages.
            program: path of the program, relative to the root.
            private: a folder below those of the libraries that has some of the program's own, "" for none.
        """
        folders = (*self.libraries, *(f"{folder}/{private}" for folder in self.libraries if private))
        libraries = ":".join(str(root / folder) for folder in folders)
        return [str(root / self.path), "--inhibit-cache", "--library-path", libraries, str(root / program)]


def find_loader(root: Path, architecture: Architecture = DEFAULT_ARCHITECTURE) -> Loader:
    """Return the dynamic loader in unpacked packages.

    Args:
        root: root of the unpacked packages.
        architecture: the processor that they are built for.

    Raises:
        SetupBroken: there is no loader.
    """
    # Debian's library folders before and after it merged / and /usr. The loader is taken from there too,
    # since the link to it in `loader_folder` is absolute in Debian 11 and leads out of the root.
    folders = (f"lib/{architecture.triplet}", f"usr/lib/{architecture.triplet}")
    present = tuple(path for path in folders if (root / path).is_dir())
    for path in present:
        if (root / path / architecture.loader).exists():
            return Loader(f"{path}/{architecture.loader}", present)
    raise SetupBroken(
        f"The unpacked packages in '{root}' have no dynamic loader '{architecture.loader}'; delete that "
        "folder and run again."
    )
