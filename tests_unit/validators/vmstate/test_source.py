"""Contract: a disk that cannot be read is an error of the set-up, and no evidence against a snapshot."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from guest_images.cache import Cache
from guest_images.provisioning import Provisioning
from harness.errors import SetupBroken, SnapshotWrong, UsageError
from tests_unit.support.synthetic_stream import PAGE, Guest, Writer, write_golden
from validators.faults.preload.library import preload_library
from validators.vmstate.stream.source import FileSource, open_source

_LIBRARY = Path(__file__).parents[2] / "support/failing_disk.c"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes reads of one file fail with EIO."""
    cache = Cache(tmp_path_factory.mktemp("cache"))
    return preload_library(_LIBRARY, Provisioning(cache, lambda _line: None))


def _snapproof(library: Path, broken: Path, offset: int, *arguments: object) -> tuple[int, str]:
    """Run a command on a disk that fails at `offset` of a file; return its exit code and all its output."""
    status = broken.stat()
    disk = f"{status.st_dev}:{status.st_ino}:{offset}"
    done = subprocess.run(
        [sys.executable, "-m", "snapproof.cli.entry", *map(str, arguments)],
        env={**os.environ, "LD_PRELOAD": str(library), "FAILING_DISK": disk},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.9999])
def test_a_snapshot_on_a_broken_disk_is_not_wrong(tmp_path: Path, library: Path, share: float) -> None:
    """Wherever the disk fails, check, info and diff end with 2 and a sentence that names the file."""
    writer = Writer(Guest())
    file, same = tmp_path / "file", tmp_path / "same"
    file.write_bytes(writer.stream())
    same.write_bytes(writer.stream())
    golden = write_golden(tmp_path / "golden", writer)
    offset = int(file.stat().st_size * share)
    for arguments in (
        ("check", file),
        ("check", file, "--golden", golden),
        ("check", file, "--extract", tmp_path / "extracted"),
        ("info", file),
        ("diff", same, file),
    ):
        code, text = _snapproof(library, file, offset, *arguments)
        assert (code, "Traceback" in text) == (2, False), text
        assert f"'{file}' cannot be read at offset" in text, text
        assert "Input/output error" in text


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_golden_image_on_a_broken_disk(tmp_path: Path, library: Path, share: float) -> None:
    """A golden image that cannot be read is no violation, and the part that fails is no hole."""
    writer = Writer(Guest())
    file = tmp_path / "file"
    file.write_bytes(writer.stream())
    golden = write_golden(tmp_path / "golden", writer)
    broken = max(golden.glob("*.ram"), key=lambda path: path.stat().st_size)
    offset = int(broken.stat().st_size * share) // PAGE * PAGE
    code, text = _snapproof(library, broken, offset, "check", file, "--golden", golden)
    assert (code, "Traceback" in text) == (2, False), text
    assert f"'{broken}' cannot be read at offset" in text, text


def test_a_file_system_without_holes_has_data_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel cannot tell holes, nothing counts as zero unread."""
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * PAGE))

    def refuse(_descriptor: int, _offset: int, _whence: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    with open_source(path) as source:
        assert isinstance(source, FileSource)
        monkeypatch.setattr(os, "lseek", refuse)
        assert source.next_data(PAGE) == PAGE


def test_a_file_that_cannot_be_mapped() -> None:
    """A file system without mappings, such as sysfs, is named with what to do."""
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not path.is_file():
        pytest.skip("This host shows no such file of sysfs.")
    with pytest.raises(SetupBroken, match="cannot be mapped on its file system"), open_source(path):
        pass


def test_an_error_about_a_file_that_changed_is_no_evidence(tmp_path: Path) -> None:
    """A file that is cut while it is read explains whatever is found wrong in it."""
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * PAGE))
    with pytest.raises(UsageError, match="changed while it was read"), open_source(path):
        os.truncate(path, PAGE)
        raise SnapshotWrong("Its end is missing.")
