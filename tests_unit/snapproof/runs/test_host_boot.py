"""Contract: a host gets the time for its boot that its kernel takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from guest_images.catalogue import HOST_BOOT_SECONDS
from guest_images.hosts.image import HostImage
from guest_images.hosts.kernel_config import KERNELS, kernel_spec
from harness.deadline import Deadline
from harness.hosts.spec import parse_host
from snapproof.runs import host_plan
from snapproof.runs.host_plan import Sources, opened_host
from snapproof.runs.options import HostOptions


@pytest.mark.parametrize("name", ["debug", "uffd"])
def test_boot_limit_is_that_of_the_kernel(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel with debugging takes several times as long, others get the usual limit."""
    given: list[float] = []

    @contextmanager
    def booted(*words: object) -> Iterator[None]:
        (deadline,) = (word for word in words if isinstance(word, Deadline))
        given.append(deadline.remaining())
        yield

    image = HostImage(**{each.name: "" for each in fields(HostImage) if each.name != "boot_seconds"})  # type: ignore[arg-type]
    built = SimpleNamespace(spec=kernel_spec(name), image=tmp_path / "bzImage")
    monkeypatch.setattr(host_plan, "build_kernel", lambda *_: built)
    monkeypatch.setattr(host_plan, "build_host_with_kernel", lambda *_: image)
    monkeypatch.setattr(host_plan, "host_config", lambda *_, **__: None)
    monkeypatch.setattr(host_plan, "vm_host", booted)
    sources = Sources(HostOptions(cache=tmp_path), tmp_path, lambda _: None)
    with opened_host(parse_host(f"vm:kernel-{name}"), sources):
        assert given == [pytest.approx(kernel_spec(name).boot_seconds, abs=30)]


def test_only_debugging_has_a_longer_limit() -> None:
    """A limit that is too long hides a kernel that hangs."""
    assert {spec.name for spec in KERNELS if spec.boot_seconds != HOST_BOOT_SECONDS} == {"debug"}
    assert kernel_spec("debug").boot_seconds > 2 * 350
