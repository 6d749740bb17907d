"""Contract: `kernel --bisect-archive` names neighbours that differ, and says why where it cannot."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import pytest

from guest_images.catalogue import ARCHIVE_SUITES
from guest_images.hosts.archive import ArchivedKernel
from harness.errors import SetupBroken, UsageError
from harness.status import EXIT_ERROR, EXIT_NOTHING_RAN, EXIT_PASS
from snapproof.cli import archive_bisect

_TEST = "matrix.anon-thp.cold-one-zero-filled"
_VERSIONS = ("6.12.1", "6.12.2", "6.12.3", "6.12.4")
# The suite of a kernel plays no part here.
_KERNELS = tuple(ArchivedKernel(version, version, "", ARCHIVE_SUITES[0]) for version in _VERSIONS)


def _bisected(
    monkeypatch: pytest.MonkeyPatch, statuses: tuple[str, ...], test: str = _TEST, host: str = "local"
) -> int:
    """Bisect four kernels with these statuses; on one with the status "" the host does not boot."""
    found = dict(zip(_VERSIONS, statuses, strict=True))

    def matching(pattern: str, _provisioning: object) -> tuple[ArchivedKernel, ...]:
        return _KERNELS if pattern == "*" else _KERNELS[:1]

    def runs(name: str, _test: str) -> Iterator[dict[str, Any]]:
        if not (status := found[name.rpartition("@")[2]]):
            raise SetupBroken("It does not boot.")
        yield {"event": "result", "status": status, "reason": ""}

    class _Sources:
        provisioning = None

    monkeypatch.setattr(archive_bisect, "matching_kernels", matching)
    sources: Any = _Sources()
    return archive_bisect.bisect_archive(argparse.Namespace(bisect_archive=test, host=host), sources, runs)


@pytest.mark.parametrize(
    ("statuses", "code", "last_line"),
    [
        (
            ("FAIL", "FAIL", "PASS", "PASS"),
            EXIT_PASS,
            "The result changes between 6.12.2 (FAIL) and 6.12.3 (PASS), neighbours in the archive.",
        ),
        (
            ("FAIL", "", "TIMEOUT", "PASS"),
            EXIT_PASS,
            "The result changes between 6.12.1 (FAIL) and 6.12.4 (PASS), between which 6.12.2, 6.12.3 could "
            "not be tested.",
        ),
        (
            ("ERROR", "PASS", "FAIL", "PASS"),
            EXIT_NOTHING_RAN,
            "The result is PASS at both ends, 6.12.2 and 6.12.4. It may change in between: narrow the "
            "versions with --host.",
        ),
        (
            ("", "PASS", "", "ERROR"),
            EXIT_ERROR,
            "Only 6.12.2 could be tested, so there is nothing to compare.",
        ),
        (("", "", "", ""), EXIT_ERROR, "No version could be tested, so there is nothing to compare."),
    ],
)
def test_last_line_and_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    statuses: tuple[str, ...],
    code: int,
    last_line: str,
) -> None:
    """Kernels that do not boot, and on which the test breaks, have no result."""
    assert _bisected(monkeypatch, statuses) == code
    assert capsys.readouterr().out.splitlines()[-1] == last_line


@pytest.mark.parametrize(
    ("test", "host", "words"),
    [
        ("matrix.anon-thp.*", "local", "is the name of .* tests"),
        ("no-such-test", "local", "is the name of 0 tests"),
        (_TEST, "vm:debian-12", "another host"),
        (_TEST, "vm:debian@6.12.1", "Only the kernel 6.12.1 matches"),
    ],
)
def test_wrong_use(monkeypatch: pytest.MonkeyPatch, test: str, host: str, words: str) -> None:
    """It takes one test, and two or more kernels of the archive."""
    with pytest.raises(UsageError, match=words):
        _bisected(monkeypatch, ("PASS",) * 4, test, host)
