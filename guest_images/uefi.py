"""Provides UEFI firmware for guests: Debian's, from its package, or the user's own files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from guest_images.catalogue import DEFAULT_QEMU, qemu_spec, suite
from guest_images.packages.unpacked import PackageSet, provide_tree
from guest_images.provisioning import Provisioning
from harness.errors import SetupBroken, UsageError
from harness.qemu.architectures import Architecture
from harness.qemu.configuration import Flash


def debian_firmware(architecture: Architecture, provisioning: Provisioning) -> Flash:
    """Return Debian's UEFI firmware for guests of an architecture; fetch it where the cache lacks it.

    Raises:
        UsageError: Debian has none for it.
        MachineryMissing, SetupBroken: as `unpacked.provide_tree`.
    """
    wanted = architecture.uefi
    if wanted is None:
        raise UsageError(f"There is no UEFI firmware for guests of {architecture.name} here.")
    # The packages are for all architectures; one release for all QEMUs, so that these differ in nothing else.
    packages = PackageSet(wanted.package, suite(qemu_spec(DEFAULT_QEMU).suite), (wanted.package,))
    tree = provide_tree(packages, provisioning)
    code, variables = tree.root / wanted.code, tree.root / wanted.variables
    for path in (code, variables):
        if not path.is_file():
            raise SetupBroken(f"The package '{wanted.package}' has no file '{path.relative_to(tree.root)}'.")
    return Flash(f"{wanted.package} {tree.version(wanted.package)}", code, variables)


def own_firmware(code: Path, variables: Path) -> Flash:
    """Return UEFI firmware of a user's own.

    Raises:
        UsageError: a file cannot be read.
    """
    digests = []
    for path in (code, variables):
        try:
            digests.append(hashlib.sha256(path.read_bytes()).hexdigest()[:12])
        except OSError as error:
            raise UsageError(f"The firmware image '{path}' cannot be read: {error.strerror}.") from error
    return Flash(
        f"{code.name} {digests[0]}, {variables.name} {digests[1]}", code.absolute(), variables.absolute()
    )
