"""The bare agent is compiled once for its inputs, the same each time, and says what is missing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from guest_images.agent import bare_build
from guest_images.agent.bare_build import compile_bare, loaded_bytes, plan_bare
from guest_images.agent.build import SOURCES
from guest_images.cache import Cache
from guest_images.provisioning import Provisioning
from harness.errors import MachineryMissing, SetupBroken, UsageError
from harness.qemu.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE, I386, Architecture


def _provisioning(folder: Path) -> Provisioning:
    return Provisioning(Cache(folder), lambda _: None)


def _compiled(folder: Path, architecture: Architecture = DEFAULT_ARCHITECTURE) -> dict[str, bytes]:
    """The files of a new build by name."""
    try:
        plan_bare(Cache(folder), architecture)
    except MachineryMissing as error:
        pytest.skip(error.sentence)
    build = compile_bare(plan_bare(Cache(folder), architecture), _provisioning(folder))
    return {path.name: path.read_bytes() for path in build.folder.iterdir()}


@pytest.mark.parametrize(
    "architecture", [entry for entry in ARCHITECTURES if entry.bare], ids=lambda entry: entry.name
)
def test_builds_are_the_same(tmp_path: Path, architecture: Architecture) -> None:
    """Two builds from equal sources have equal bytes, wherever the cache lies."""
    first, second = (_compiled(tmp_path / name, architecture) for name in ("a", "b/longer"))
    assert first == second
    assert first["agent.elf"].startswith(b"\x7fELF")


def test_control_page_is_loaded_where_the_host_looks_for_it(tmp_path: Path) -> None:
    """The first loaded page is the control page, all zero; the entry is in the page behind it."""
    target = DEFAULT_ARCHITECTURE.bare
    assert target is not None
    loaded = loaded_bytes(_compiled(tmp_path)["agent.elf"])
    assert not any(loaded[:4096]) and any(loaded[4096:8192])


def test_firmware_fills_the_last_64_kib(tmp_path: Path) -> None:
    """The reset vector is 16 bytes below the end of the image, and is a far jump."""
    firmware = _compiled(tmp_path)["firmware.bin"]
    assert len(firmware) == 64 << 10
    assert firmware[-16] == 0xEA


def test_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that is in the cache is not made again; another source is another build."""
    _compiled(tmp_path)
    build = plan_bare(Cache(tmp_path), DEFAULT_ARCHITECTURE)
    monkeypatch.setattr(bare_build, "run_compiler", lambda *_: pytest.fail("compiled again"))
    assert compile_bare(build, _provisioning(tmp_path)) == build
    shutil.copytree(SOURCES, tmp_path / "sources")
    with (tmp_path / "sources/bare/main.c").open("a") as source:
        source.write("/* changed */\n")
    assert plan_bare(Cache(tmp_path), DEFAULT_ARCHITECTURE, tmp_path / "sources").folder != build.folder


def test_what_cannot_be_built(tmp_path: Path) -> None:
    """An architecture without a bare agent, and sources that are not there."""
    with pytest.raises(UsageError, match="no agent without an operating system for i686"):
        plan_bare(Cache(tmp_path), replace(I386, bare=None))
    with pytest.raises(SetupBroken, match="sources are not in"):
        plan_bare(Cache(tmp_path), DEFAULT_ARCHITECTURE, tmp_path)
    with pytest.raises(SetupBroken, match="nothing to load"):
        loaded_bytes(bytes(64))


def test_source_that_does_not_compile(tmp_path: Path) -> None:
    """The compiler's first error is in the sentence."""
    shutil.copytree(SOURCES, tmp_path / "sources")
    (tmp_path / "sources/bare/main.c").write_text("int broken(void) { return missing; }\n")
    build = plan_bare(Cache(tmp_path), DEFAULT_ARCHITECTURE, tmp_path / "sources")
    with pytest.raises(SetupBroken, match=r"does not compile: .*missing"):
        compile_bare(build, _provisioning(tmp_path))
