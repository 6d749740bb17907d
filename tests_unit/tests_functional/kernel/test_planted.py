"""Faults planted in the userfaultfd library turn the feature tests red that must see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.userfaultfd import PAGE_BYTES, Userfaultfd, probe_userfaultfd
from tests_functional.kernel import needs, registry
from tests_functional.kernel.isolate import run_isolated
from tests_functional.kernel.registry import FeatureTest
from tests_functional.kernel.trial import Trial


def _require_wp() -> None:
    if not probe_userfaultfd().write_protect:
        pytest.skip(probe_userfaultfd().reason or "This kernel has no write protection.")


def _named(slug: str) -> FeatureTest:
    (found,) = [test for test in registry.all_tests() if test.slug == slug]
    return found


def _one_page_less(self: Userfaultfd, address: int, length: int, **named: Any) -> None:
    _WRITE_PROTECT(self, address, max(PAGE_BYTES, length - PAGE_BYTES), **named)


def _no_protection(self: Userfaultfd, address: int, length: int, **named: Any) -> None:
    if named.get("protect") is False:
        _WRITE_PROTECT(self, address, length, **named)


def _no_release(self: Userfaultfd, address: int, length: int, **named: Any) -> None:
    if named.get("protect") is not False:
        _WRITE_PROTECT(self, address, length, **named)


def _releases_two(self: Userfaultfd, address: int, length: int, **named: Any) -> None:
    if named.get("protect") is False:
        length += PAGE_BYTES
    _WRITE_PROTECT(self, address, length, **named)


_WRITE_PROTECT = Userfaultfd.write_protect


@pytest.mark.parametrize(
    ("fault", "slug", "reason"),
    [
        (_one_page_less, "coverage.anon.each-page-waits-once-and-only-protected-ones", "by pagemap"),
        (_one_page_less, "preserved.shmem.changed-permissions-keep-protection-read", "by pagemap"),
        (_no_protection, "coverage.anon.a-write-waits-byte", "without an event"),
        (_no_protection, "kernel_writers.anon.a-system-call-waits-read", "without an event"),
        (_no_protection, "preserved.memfd.emptied-shared-pages-stay-protected", "without an event"),
        (_no_protection, "preserved.anon.a-child-inherits-protection-if-agreed", "The monitor's exit code"),
        (_no_release, "coverage.anon.a-write-waits-page", "still waits"),
        (_no_release, "lifetime.anon.many-who-wait-for-one-page-all-go-on", "still wait"),
        (_releases_two, "coverage.memfd.each-page-waits-once-and-only-protected-ones", "without an event"),
        (_releases_two, "preserved.shmem.changed-permissions-keep-protection-none", "without an event"),
    ],
)
def test_fault_in_the_library_turns_tests_red(
    fault: Callable[..., None], slug: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests that must see a planted fault fail: one page less, none at all, none released, one more."""
    _require_wp()
    monkeypatch.setattr(Userfaultfd, "write_protect", fault)
    monkeypatch.setattr(Trial, "patience", 2.0)
    needs.missing_features(0)
    result = run_isolated(_named(slug))
    assert (result.status, reason in result.reason) == ("FAIL", True), result


@pytest.mark.parametrize(
    "slug",
    [
        "coverage.anon.each-page-waits-once-and-only-protected-ones",
        "preserved.shmem.changed-permissions-keep-protection-read",
        "kernel_writers.anon.a-system-call-waits-read",
        "preserved.memfd.emptied-shared-pages-stay-protected",
        "lifetime.anon.many-who-wait-for-one-page-all-go-on",
        "trackers.anon.a-hole-costs-mprotect-a-mapping-and-wp-none",
    ],
)
def test_the_same_tests_are_green_on_a_right_library(slug: str) -> None:
    """The control, on this machine's kernel."""
    result = run_isolated(_named(slug))
    assert result.status in {"PASS", "SKIP"}, result
