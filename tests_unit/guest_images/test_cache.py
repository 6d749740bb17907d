"""The cache: its files are whole, even after an interruption and with several runs at a time."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from guest_images import cache as cache_module
from guest_images.cache import (
    Cache,
    default_cache_folder,
    disk_errors_as_sentence,
    publish_file,
    publish_folder,
    read_json,
    to_json,
)
from guest_images.catalogue import suite
from guest_images.packages.unpacked import InputRecord, PackageSet, find_tree, manifest_digest
from harness.errors import SetupBroken
from harness.qemu.architectures import DEFAULT_ARCHITECTURE, X86_64


def quiet(line: str) -> None:
    """Take log lines and drop them."""


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty cache."""
    return Cache(tmp_path / "cache")


def test_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """SNAPPROOF_CACHE wins over XDG_CACHE_HOME, which wins over ~/.cache."""
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.delenv("SNAPPROOF_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    name = "snapproof" if DEFAULT_ARCHITECTURE is X86_64 else f"snapproof-{DEFAULT_ARCHITECTURE.name}"
    assert default_cache_folder() == Path("/home/u/.cache") / name
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache_folder() == Path("/xdg") / name
    monkeypatch.setenv("SNAPPROOF_CACHE", "/chosen")
    assert default_cache_folder() == Path("/chosen")


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails midway leaves neither a part of the new file nor a temporary one."""
    path = tmp_path / "file"
    publish_file(path, b"old")

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fchmod", full)
    with pytest.raises(SetupBroken, match="is full"):
        publish_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_published_file_has_the_mode(tmp_path: Path) -> None:
    """Private keys are never readable by others, not even for an instant."""
    publish_file(tmp_path / "key", b"k", 0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_staging_is_gone_after_an_error(cache: Cache) -> None:
    """After an error the staging folder is removed and nothing was published."""
    with pytest.raises(RuntimeError), cache.lock("x", quiet), cache.staging("x") as staging:
        (staging / "half").write_text("half")
        raise RuntimeError
    assert list(cache.path("tmp").iterdir()) == []


def test_leftovers_of_a_killed_run_are_swept(cache: Cache) -> None:
    """The next holder of a lock deletes the staging folder that a killed run has left, and no other one."""
    script = (
        "import os, signal, sys; from pathlib import Path; from guest_images.cache import Cache\n"
        "cache = Cache(Path(sys.argv[1]))\n"
        "with cache.lock('x', print), cache.staging('x') as staging:\n"
        "    (staging / 'half').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(cache.folder)], check=False)
    assert len(list(cache.path("tmp").glob("x@*/half"))) == 1
    cache.path("tmp", "other@1").mkdir()
    with cache.lock("x", quiet):
        assert [path.name for path in cache.path("tmp").iterdir()] == ["other@1"]


def test_lock_keeps_a_second_run_waiting(cache: Cache) -> None:
    """Two runs never hold one lock at a time; the waiting one logs what it waits for."""
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        def log(line: str) -> None:
            assert "'x'" in line
            waiting.set()

        with cache.lock("x", log):
            order.append("second")

    with cache.lock("x", quiet):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_endless_holder_is_reported(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for a run that never releases the lock ends with an error."""
    monkeypatch.setattr(cache_module, "LOCK_SECONDS", 0.05)
    with (
        cache.lock("x", quiet),
        pytest.raises(SetupBroken, match="Another run"),
        Cache(cache.folder).lock("x", quiet),
    ):
        pass


def test_first_published_folder_stays(tmp_path: Path) -> None:
    """Folders of one name are equal, so the first one stays and runs that use it keep their files."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
        publish_folder(tmp_path / name, tmp_path / "final")
    assert [path.name for path in (tmp_path / "final").iterdir()] == ["one"]


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(errno.ENOSPC, "is full"), (errno.EDQUOT, "is full"), (errno.EACCES, "cannot be used")],
)
def test_disk_errors_are_one_sentence(tmp_path: Path, number: int, sentence: str) -> None:
    """A full disk and a folder without permission give different sentences, both with the folder."""
    with pytest.raises(SetupBroken, match=sentence) as caught, disk_errors_as_sentence(tmp_path):
        raise OSError(number, os.strerror(number))
    assert str(tmp_path) in caught.value.sentence


def test_damaged_manifest_is_reported(tmp_path: Path) -> None:
    """A damaged file is never taken for an absent one."""
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(SetupBroken, match="damaged"):
        read_json(tmp_path / "m.json")
    assert read_json(tmp_path / "absent.json") is None


def test_tree_needs_pointer_and_folder(cache: Cache) -> None:
    """A resolved set counts only together with its unpacked folder, and only for the same packages."""
    wanted = PackageSet("kernel", suite("debian-12"), ("linux",))
    record = InputRecord("linux", "6.1", "ab")
    assert find_tree(wanted, cache) is None
    pointer = {"packages": ["linux"], "manifest": [vars(record)]}
    publish_file(cache.path("resolved", "debian-12-kernel.json"), to_json(pointer))
    assert find_tree(wanted, cache) is None
    folder = cache.path("trees", f"debian-12-kernel-{manifest_digest([record])[:12]}")
    folder.mkdir(parents=True)
    found = find_tree(wanted, cache)
    assert found is not None
    assert found.version("linux") == "6.1"
    assert find_tree(PackageSet("kernel", suite("debian-12"), ("linux", "more")), cache) is None


def test_manifest_digest_ignores_order_only() -> None:
    """The digest is of the set: order does not matter, every field does."""
    one, two = InputRecord("a", "1", "x"), InputRecord("b", "2", "y")
    assert manifest_digest([one, two]) == manifest_digest([two, one])
    for other in (InputRecord("c", "1", "x"), InputRecord("a", "3", "x"), InputRecord("a", "1", "z")):
        assert manifest_digest([other, two]) != manifest_digest([one, two])


def test_json_is_stable() -> None:
    """Manifests of equal content are byte-identical."""
    assert to_json({"b": 1, "a": 2}) == to_json({"a": 2, "b": 1})
    assert json.loads(to_json({"a": [1]})) == {"a": [1]}
