"""Contract: set-up compiles the native core once, and keeps none that computes wrongly."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from guest_images.cache import Cache
from guest_images.provisioning import Provisioning
from harness.errors import SetupBroken
from snapproof.cli.numpy_note import note_numpy
from tests_unit.support.native_core import NUMPY, built_core, use_core
from validators.native import build
from validators.native.place import CHOICE, SOURCES, core_of, core_path

# Of each function a line that a compiler could get wrong.
_WRONG = [
    ("records.c", "if (earlier)", "if (!earlier)", "walk"),
    ("records.c", "-(int64_t)(base + here)", "-(int64_t)(base + here + 1)", "walk"),
    ("digest.c", "keys[i + 1]", "keys[i]", "digest"),
    ("digest.c", "i < words", "i + 1 < words", "digest"),
    ("agent.c", "i < DATA_CHECKSUM", "i + 1 < DATA_CHECKSUM", "agent"),
    ("agent.c", "sum += head[i]", "sum ^= head[i]", "agent"),
    ("agent.c", "case MAGIC_THREAD:\n", "", "agent"),
    ("compare.c", "slice->spare + i * size, size)", "slice->spare + i * size, size - 1)", "differing"),
    ("compare.c", "!page[0] && ", "", "nonzero"),
    ("copy.c", "copying->numbers[first] * (int64_t)size)", "(int64_t)(first * size + 1))", "copy"),
]


@pytest.fixture(autouse=True, scope="module")
def _core() -> None:
    """Leave the choice to each test here, instead of running each twice."""
    if built_core() is None:
        pytest.skip("There is no C compiler here.")


def _provisioning(folder: Path, said: list[str]) -> Provisioning:
    return Provisioning(Cache(folder), said.append)


def test_it_is_compiled_once(tmp_path: Path) -> None:
    """The second time it is found, by its sources and this machine, and nothing is said."""
    said: list[str] = []
    first = build.build_core(_provisioning(tmp_path, said))
    assert first == core_path(tmp_path)
    assert said == ["Compiling the native core of the validator."]
    assert build.build_core(_provisioning(tmp_path, said)) == first
    assert len(said) == 1


@pytest.mark.parametrize(("file", "right", "wrong", "function"), _WRONG)
def test_one_that_computes_wrongly_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, right: str, wrong: str, function: str
) -> None:
    """The sentence names the function; nothing is in the cache, so numpy is used."""
    sources = tmp_path / "sources"
    shutil.copytree(SOURCES, sources)
    text = (sources / file).read_text()
    assert right in text
    (sources / file).write_text(text.replace(right, wrong, 1))
    monkeypatch.setattr(build, "SOURCES", sources)
    with pytest.raises(SetupBroken, match=rf"computes wrongly \({function}\), so it is not used"):
        build.build_core(_provisioning(tmp_path / "cache", []))
    assert not core_path(tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("size", "choice", "said"),
    [(64, "missing", True), (63, "missing", False), (64, "built", False), (64, "numpy", False)],
)
def test_note_that_numpy_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int, choice: str, said: bool
) -> None:
    """A note for files that take noticeably longer, where no core is built and nobody has chosen numpy."""
    path = tmp_path / "file"
    path.touch()
    with path.open("wb") as file:
        file.truncate(size << 20)
    with use_core({"missing": str(tmp_path / "core.so"), "built": str(built_core()), "numpy": NUMPY}[choice]):
        note_numpy(path)
    assert ("The native core is not built" in capsys.readouterr().err) is said


def test_a_command_chooses_the_core_of_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For itself and its children, and for no longer; a choice of the user's holds."""
    monkeypatch.delenv(CHOICE, raising=False)
    with core_of(tmp_path):
        assert core_path(tmp_path) == Path(_chosen())
    assert _chosen() == ""
    monkeypatch.setenv(CHOICE, NUMPY)
    with core_of(tmp_path):
        assert _chosen() == NUMPY
    assert _chosen() == NUMPY


def _chosen() -> str:
    return os.environ.get(CHOICE, "")
