"""The standard library of a host's Python is compiled here, for the place where it lies in the host."""

from __future__ import annotations

import importlib.util
import marshal
import sys
from pathlib import Path

import pytest

from guest_images.cache import Cache
from guest_images.hosts import compiled_python
from guest_images.hosts.compiled_python import compiled_modules, compiled_sources
from guest_images.provisioning import Provisioning
from harness.errors import SetupBroken
from harness.qemu.architectures import AARCH64, DEFAULT_ARCHITECTURE

_VERSION = f"python3.{sys.version_info.minor}"


def _packages(tmp_path: Path, source: str) -> Path:
    """Make unpacked packages with a library of one module; their loader runs the Python of this machine."""
    library = tmp_path / "usr/lib" / _VERSION
    library.mkdir(parents=True)
    (library / "sample_module.py").write_text(source)
    loader = tmp_path / "usr/lib" / DEFAULT_ARCHITECTURE.triplet / DEFAULT_ARCHITECTURE.loader
    loader.parent.mkdir()
    loader.write_text(
        f'#!/bin/sh\nshift 4\nunset PYTHONHOME\nPYTHONPATH={library} exec {sys.executable} "$@"\n'
    )
    loader.chmod(0o755)
    return tmp_path


def test_modules_are_compiled_for_their_place_in_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are valid whatever the time of the source there, tell its path there, and nothing is left here."""
    monkeypatch.setattr(compiled_python, "_MODULES", ("sample_module",))
    root = _packages(tmp_path, "VALUE = 6 * 7\n")
    before = sorted(tmp_path.rglob("*"))
    ((path, content),) = compiled_modules(root, DEFAULT_ARCHITECTURE).items()
    assert path == f"usr/lib/{_VERSION}/__pycache__/sample_module.{sys.implementation.cache_tag}.pyc"
    assert content[:4] == importlib.util.MAGIC_NUMBER
    # PEP 552: by a hash, which is not to be checked.
    assert content[4:8] == bytes([1, 0, 0, 0])
    code = marshal.loads(content[16:])
    assert code.co_filename == f"/usr/lib/{_VERSION}/sample_module.py"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_library_that_does_not_compile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages are at fault, and their folder is named."""
    monkeypatch.setattr(compiled_python, "_MODULES", ("sample_module",))
    with pytest.raises(SetupBroken, match="does not compile its library"):
        compiled_modules(_packages(tmp_path, "1 +\n"), DEFAULT_ARCHITECTURE)


def test_nothing_is_compiled_for_a_processor_that_is_not_this_ones(tmp_path: Path) -> None:
    """A Python of another architecture does not run here, and one that is not there needs nothing."""
    assert compiled_modules(_packages(tmp_path, "1 +\n"), AARCH64) == {}
    assert compiled_modules(tmp_path / "none", DEFAULT_ARCHITECTURE) == {}


def test_our_programs_are_compiled_for_their_place_beside_the_sources(tmp_path: Path) -> None:
    """A file for each source, which tells the source's place; once for the same sources and Python."""
    said: list[str] = []
    provisioning = Provisioning(Cache(tmp_path / "cache"), said.append)
    root = _packages(tmp_path / "host/root", "")
    sources = {"ours/__init__.py": b"", "ours/part.py": b"VALUE = 6 * 7\n"}
    found = compiled_sources(sources, root, DEFAULT_ARCHITECTURE, provisioning)
    tag = sys.implementation.cache_tag
    assert list(found) == [f"ours/__pycache__/{name}.{tag}.pyc" for name in ("__init__", "part")]
    content = found[f"ours/__pycache__/part.{tag}.pyc"].read_bytes()
    assert content[:8] == importlib.util.MAGIC_NUMBER + bytes([1, 0, 0, 0])
    assert marshal.loads(content[16:]).co_filename == "ours/part.py"
    loader = next(root.rglob(DEFAULT_ARCHITECTURE.loader))
    loader.write_text("#!/bin/sh\nexit 3\n")
    assert compiled_sources(sources, root, DEFAULT_ARCHITECTURE, provisioning) == found
    changed = {**sources, "ours/part.py": b"VALUE = 6 * 8\n"}
    with pytest.raises(SetupBroken, match="does not compile our programs"):
        compiled_sources(changed, root, DEFAULT_ARCHITECTURE, provisioning)
    assert compiled_sources(sources, root, AARCH64, provisioning) == {}


def test_a_program_of_ours_that_does_not_compile_is_our_defect(tmp_path: Path) -> None:
    """Nothing is kept of it, so that the next run says so too."""
    provisioning = Provisioning(Cache(tmp_path / "cache"), print)
    root = _packages(tmp_path / "host/root", "")
    for _ in range(2):
        with pytest.raises(SetupBroken, match="defect of snapproof"):
            compiled_sources({"bad.py": b"1 +\n"}, root, DEFAULT_ARCHITECTURE, provisioning)
