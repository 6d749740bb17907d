"""Contract: the example of docs/bisecting.md makes the history that it claims, and git finds the fault."""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from guest_images.cache import Cache, default_cache_folder
from guest_images.hosts.kernel_build import missing_tools
from guest_images.provisioning import Provisioning
from harness.errors import SnapproofError
from snapproof.runs.stack import find_qemu

_ROOT = Path(__file__).parents[2]
_EXAMPLE = _ROOT / "docs/examples/bisect"
_QEMU_SCRIPT = '#!/bin/sh\necho "QEMU emulator version 1.2.3"\n'


def _make(script: str, *words: str | Path) -> None:
    subprocess.run(
        [sys.executable, _EXAMPLE / script, *words],
        check=True,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


def test_history(tmp_path: Path) -> None:
    """Eight commits, each of which builds a QEMU but the fourth; only the last two preload the fault."""
    qemu = tmp_path / "qemu-stand-in"
    qemu.write_text(_QEMU_SCRIPT)
    qemu.chmod(0o755)
    _make("make-history.py", str(qemu), tmp_path / "history")
    folder = tmp_path / "history"
    for number in range(1, 9):
        _git(folder, "checkout", "-q", f"v{number}")
        built = subprocess.run(["./build.sh"], cwd=folder, capture_output=True, check=False).returncode == 0
        assert built == (number != 4)
        assert (folder / "qemu").exists() == built
        if built:
            assert "QEMU emulator" in subprocess.check_output(["./qemu", "--version"], cwd=folder, text=True)
            assert ("drop_protection" in (folder / "qemu").read_text()) == (number >= 7)


def test_kernel_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth commit uses a type that there is not; from the sixth on read-only pages are passed over."""
    monkeypatch.syspath_prepend(_EXAMPLE)
    spec = importlib.util.spec_from_file_location("kernel_history", _EXAMPLE / "make-kernel-history.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    mark = "if (uffd_wp)\n\t\t\t\tptent = pte_mkuffd_wp(ptent);\n"
    imported = {"mm/mprotect.c": f"long pages = 0;\n{mark}", "mm/userfaultfd.c": "int len;\n"}
    texts = [example.sources_at(number, imported) for number in range(1, 9)]
    assert texts[0] == imported
    assert all(one != other for one, other in itertools.pairwise(texts))
    assert [number for number, text in enumerate(texts, 1) if "pages_t" in text["mm/mprotect.c"]] == [4]
    faulty = [number for number, text in enumerate(texts, 1) if "pte_write(oldpte)" in text["mm/mprotect.c"]]
    assert faulty == [6, 7, 8]
    with pytest.raises(SnapproofError, match="does not fit this version of Linux"):
        example.sources_at(8, {"mm/mprotect.c": "", "mm/userfaultfd.c": ""})


def _bisect(folder: Path, step: str, bad: str) -> None:
    """Have git find the commit, which must be `bad`, and pass over the fourth."""
    _git(folder, "bisect", "start", "v8", "v1")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        ["git", "bisect", "run", _EXAMPLE / step],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "is the first bad commit" in done.stdout
    assert f"git bisect skip {_git(folder, 'rev-parse', 'v4').strip()}" in _git(folder, "bisect", "log")
    assert _git(folder, "rev-parse", "refs/bisect/bad") == _git(folder, "rev-parse", bad)


@pytest.mark.vm
@pytest.mark.timeout(1800)
def test_bisection_names_the_commit(tmp_path: Path) -> None:
    """Git names the seventh commit with a real QEMU and real guests, past one that does not build."""
    qemu = find_qemu(None, Provisioning(Cache(default_cache_folder()), print))
    _make("make-history.py", str(qemu.executable), tmp_path / "history")
    _bisect(tmp_path / "history", "step.sh", "v7")


@pytest.mark.vm
@pytest.mark.timeout(3600)
@pytest.mark.skipif(bool(missing_tools()), reason="kernels cannot be compiled here")
def test_kernel_bisection_names_the_commit(tmp_path: Path) -> None:
    """Linux is compiled at each step and booted as a VM; git names the sixth commit."""
    _make("make-kernel-history.py", tmp_path / "linux")
    _bisect(tmp_path / "linux", "kernel-step.sh", "v6")
