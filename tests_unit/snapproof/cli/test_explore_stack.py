"""Contract: a stack on which no list can run is refused once, with the reason."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import NotApplicable, UsageError
from harness.qemu.architectures import DEFAULT_ARCHITECTURE
from harness.userfaultfd import UserfaultfdSupport
from snapproof.cli import explore_stack
from snapproof.runs.options import StackOptions

_KNOWN = ("xbzrle", "background-snapshot")


def _prepare(
    monkeypatch: pytest.MonkeyPatch,
    options: StackOptions | None = None,
    capabilities: tuple[str, ...] = _KNOWN,
    features: tuple[str, ...] = ("PAGEFAULT_FLAG_WP",),
    **more: Any,
) -> dict[str, Any]:
    image = SimpleNamespace(bare=True, name="bare", architecture=DEFAULT_ARCHITECTURE)
    stack = SimpleNamespace(image=image, machine="pc", capabilities=capabilities)
    vars(stack).update(more)
    environment = {"qemu": "5.2.0", "qemu_executable": "/bin/sh"}
    monkeypatch.setattr(explore_stack, "prepare_stack", lambda *_: (stack, environment))
    support = UserfaultfdSupport("system call" if features else "", "The kernel refuses it.", features)
    monkeypatch.setattr(explore_stack, "probe_userfaultfd", lambda: support)
    chosen, _, found = explore_stack.prepare_bare(options or StackOptions(), Path("x"), lambda _line: None)
    assert chosen.guest is not None
    return found


def test_a_stack_that_fits_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment has the digest of its QEMU; one that lists no capabilities may have this one."""
    assert len(_prepare(monkeypatch)["qemu_digest"]) == 64
    assert _prepare(monkeypatch, capabilities=())["qemu"] == "5.2.0"


def test_a_qemu_without_background_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would give lists without a verdict until the time is over."""
    with pytest.raises(NotApplicable, match=r"QEMU 5\.2\.0 has no capability 'background-snapshot'"):
        _prepare(monkeypatch, capabilities=("xbzrle",))


def test_a_host_without_background_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe's reason is told."""
    with pytest.raises(NotApplicable, match=r"nothing to explore. The kernel refuses it"):
        _prepare(monkeypatch, features=())


@pytest.mark.parametrize(
    "options",
    [
        StackOptions(arch="aarch64"),
        StackOptions(arch="riscv64", guest="bare"),
        StackOptions(guest="bare-aarch64"),
    ],
)
def test_another_processor(monkeypatch: pytest.MonkeyPatch, options: StackOptions) -> None:
    """No compiler, package or QEMU is missing: such guests are not explored at all."""
    monkeypatch.setattr(explore_stack, "prepare_stack", lambda *_: pytest.fail("It is refused before."))
    with pytest.raises(UsageError, match=r"they are for guests of x86_64, and not of (aarch64|riscv64)"):
        explore_stack.prepare_bare(options, Path("x"), lambda _line: None)


@pytest.mark.parametrize("more", [{"machine": "microvm"}, {"image": SimpleNamespace(
    bare=False, name="default", architecture=DEFAULT_ARCHITECTURE)}])  # fmt: skip
def test_a_guest_without_ports(monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]) -> None:
    """Steps go through them."""
    with pytest.raises(NotApplicable, match="take a bare guest"):
        _prepare(monkeypatch, **more)
