"""Finds the kernels that Debian's archive still serves, by version, for VMs that serve as hosts."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass

from guest_images.catalogue import ARCHIVE_SUITES, Suite
from guest_images.guests.kernel_modules import KERNEL_PACKAGES, Kernel, find_kernel
from guest_images.packages.apt_state import AptState, VersionGone
from guest_images.packages.unpacked import PackageSet, provide_tree
from guest_images.provisioning import Provisioning
from harness.errors import MachineryMissing, UsageError

ARCHIVE = "debian@"
"""Beginning of the name of a VM with a kernel of the archive; a version or a shell pattern follows."""

_MADISON_FIELDS = 3


@dataclass(frozen=True)
class ArchivedKernel:
    """A kernel that a suite of Debian's archive names.

    Attributes:
        version: upstream version, e.g. ``6.12.43``.
        debian_version: version of the package, e.g. ``6.12.43-1~bpo12+1``.
        package: name of the package.
        suite: the suite that names it.
    """

    version: str
    debian_version: str
    package: str
    suite: Suite

    @property
    def name(self) -> str:
        """Its name as a VM: `debian@` and the upstream version."""
        return f"{ARCHIVE}{self.version}"

    @property
    def order(self) -> tuple[int, ...]:
        """Key that sorts kernels by upstream version, then by revision."""
        return version_key(self.version) + version_key(self.debian_version)


def version_key(version: str) -> tuple[int, ...]:
    """Return the numbers in a version, to compare versions by: ``6.12.43`` gives (6, 12, 43)."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def parse_madison(output: str, suite: Suite) -> list[ArchivedKernel]:
    """Return the kernels in the output of `apt-cache madison`: lines ``package | version | source``.

    Metapackages such as ``linux-image-6.12-cloud-amd64`` have no patch level in their names and are left out.
    """
    found = []
    image = re.compile(r"linux-image-\d+\.\d+\.\d+\S*")
    for line in output.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) != _MADISON_FIELDS or not image.fullmatch(fields[0]):
            continue
        package, version, _ = fields
        upstream = re.match(r"\d+\.\d+\.\d+", version)
        if upstream:
            found.append(ArchivedKernel(upstream[0], version, package, suite))
    return found


def newest_of_each(kernels: Iterable[ArchivedKernel]) -> tuple[ArchivedKernel, ...]:
    """Return one kernel for each upstream version, the newest revision, sorted by version."""
    by_version = {kernel.version: kernel for kernel in sorted(kernels, key=lambda kernel: kernel.order)}
    return tuple(by_version.values())


def archived_kernels(provisioning: Provisioning) -> tuple[ArchivedKernel, ...]:
    """Return the kernels that the archive's suites name, oldest first.

    The index can name a package that the mirror no longer has; only fetching it tells.

    Raises:
        MachineryMissing, SetupBroken: a package index could not be fetched.
    """
    found: list[ArchivedKernel] = []
    for suite in ARCHIVE_SUITES:
        with provisioning.lock(f"apt-{suite.name}"):
            apt = AptState(suite, provisioning, security=suite.security)
            apt.update()
            # `linux-image-cloud-amd64` depends on the newest `linux-image-VERSION-cloud-amd64`.
            flavour = suite.architecture.kernel_package.removeprefix("linux-image-")
            names = [name for name in apt.names("linux-image-") if name.endswith(f"-{flavour}")]
            found += parse_madison(apt.versions(names), suite)
    return newest_of_each(found)


def matching_kernels(pattern: str, provisioning: Provisioning) -> tuple[ArchivedKernel, ...]:
    """Return the kernels whose upstream or package version matches a shell pattern, oldest first.

    Raises:
        UsageError: none does.
        MachineryMissing, SetupBroken: as `archived_kernels`.
    """
    every = archived_kernels(provisioning)
    found = tuple(
        kernel
        for kernel in every
        if fnmatch.fnmatch(kernel.version, pattern) or fnmatch.fnmatch(kernel.debian_version, pattern)
    )
    if found:
        return found
    known = ", ".join(kernel.version for kernel in every)
    raise UsageError(f"Debian's archive has no kernel '{pattern}' now; it has {known}.")


def archived_kernel(kernel: ArchivedKernel, provisioning: Provisioning) -> Kernel:
    """Return a kernel of the archive, unpacked; fetch it where the cache lacks it.

    Raises:
        MachineryMissing: the mirror no longer has it.
        SetupBroken: as `unpacked.provide_tree`.
    """
    wanted = PackageSet(f"kernel-{kernel.version}", kernel.suite, (kernel.package,), KERNEL_PACKAGES)
    try:
        tree = provide_tree(wanted, provisioning)
    except VersionGone as error:
        raise MachineryMissing(
            f"The mirror's index names the kernel {kernel.version} ('{kernel.package}'), but the mirror no "
            "longer has it; take another version."
        ) from error
    return find_kernel(tree.root, kernel.suite.architecture)
