"""Runs programs of Debian's packages with the packages' own libraries."""

from __future__ import annotations

from guest_images.catalogue import userland_suite
from guest_images.packages.loader import find_loader
from guest_images.packages.unpacked import PackageSet, find_program, provide_tree
from guest_images.provisioning import Provisioning


def packaged_program(package: str, program: str, provisioning: Provisioning, private: str = "") -> list[str]:
    """Return the beginning of a command line that runs a program; fetch its package where the cache lacks it.

    Args:
        package: Debian's name of the package, in the release of the guests' programs.
        program: file name of the program.
        provisioning: the mirror, the cache, and the log of slow steps.
        private: a folder below the usual ones that has some of its libraries, "" for none.

    Raises:
        MachineryMissing, SetupBroken: as `unpacked.provide_tree`.
    """
    root = provide_tree(PackageSet(package, userland_suite(), (package,)), provisioning).root
    return find_loader(root).command(root, find_program(root, program), private)
