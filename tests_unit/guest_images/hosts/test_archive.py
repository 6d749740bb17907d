"""Kernels of Debian's archive: read from apt's list, one for each version, found by pattern."""

from __future__ import annotations

import pytest

from guest_images.catalogue import ARCHIVE_SUITES
from guest_images.hosts import archive
from guest_images.hosts.archive import ArchivedKernel, matching_kernels, newest_of_each, parse_madison
from guest_images.provisioning import Provisioning
from harness.errors import UsageError

# As `apt-cache madison` prints them.
_MADISON = """\
linux-image-6.12.43+deb12-cloud-amd64 | 6.12.43-1~bpo12+1 | http://mirror/debian bookworm-backports/main amd64 Packages
linux-image-6.12.90+deb13-cloud-amd64 | 6.12.90-1 | http://mirror/debian-security trixie-security/main amd64 Packages
linux-image-6.12.90+deb13.1-cloud-amd64 | 6.12.90-2 | http://mirror/debian-security trixie-security/main amd64 Packages
linux-image-6.1.0-50-cloud-amd64 | 6.1.176-1 | http://mirror/debian bookworm/main amd64 Packages
linux-image-6.12-cloud-amd64 | 6.12.117-1~deb12u1 | http://mirror/debian-security bookworm-security/main amd64 Packages
"""  # noqa: E501


def _kernels() -> tuple[ArchivedKernel, ...]:
    return newest_of_each(parse_madison(_MADISON, ARCHIVE_SUITES[1]))


def test_kernels_are_sorted_by_upstream_version_without_metapackages() -> None:
    """6.1.176 is the kernel that Debian calls 6.1.0-50; of two revisions the newer one counts."""
    found = [(kernel.version, kernel.debian_version, kernel.name) for kernel in _kernels()]
    assert found == [
        ("6.1.176", "6.1.176-1", "debian@6.1.176"),
        ("6.12.43", "6.12.43-1~bpo12+1", "debian@6.12.43"),
        ("6.12.90", "6.12.90-2", "debian@6.12.90"),
    ]


def _provisioning(monkeypatch: pytest.MonkeyPatch) -> Provisioning:
    monkeypatch.setattr(archive, "archived_kernels", lambda _: _kernels())
    return Provisioning(cache=None, mirror=None, log=print)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "versions"),
    [
        ("6.12.43", ["6.12.43"]),
        ("6.12.*", ["6.12.43", "6.12.90"]),
        ("6.12.90-2", ["6.12.90"]),
        ("*", ["6.1.176", "6.12.43", "6.12.90"]),
    ],
)
def test_patterns_match_versions(pattern: str, versions: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream versions, or those of Debian's packages."""
    found = matching_kernels(pattern, _provisioning(monkeypatch))
    assert [kernel.version for kernel in found] == versions


def test_a_version_that_is_not_there_names_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive drops old kernels, so the user needs to know what it has today."""
    with pytest.raises(UsageError, match=r"no kernel '6\.13\.1' now; it has 6\.1\.176, 6\.12\.43, 6\.12\.90"):
        matching_kernels("6.13.1", _provisioning(monkeypatch))
