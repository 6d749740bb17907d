"""Contract: a stream is found, read and judged alike in each container, and a hostile one is one sentence."""

from __future__ import annotations

import bz2
import ctypes
import gzip
import io
import lzma
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.codes import Code
from harness.errors import MachineryMissing, SetupBroken, UsageError
from harness.status import Status
from tests_unit.support.containers import CLUSTER, XML, qcow2, save_image
from tests_unit.support.synthetic_stream import Guest, Writer
from validators.judge import check_file
from validators.oracles.o4_structure.structure import check_structure
from validators.vmstate.containers import compressed, opening, shared_library
from validators.vmstate.containers.libvirt import save_image_header
from validators.vmstate.containers.opening import holds_stream, open_stream
from validators.vmstate.diff import diff_files
from validators.vmstate.extract import extract
from validators.vmstate.stream import PipeSource, read_index

_STREAM = Writer(Guest()).stream()
_MAPPED = Writer(Guest(), mapped=True).stream()
_OTHER = Writer(Guest(seed=2)).stream()
_MIB = 1 << 20


def _program(name: str, *more: str) -> Callable[[bytes], bytes]:
    """Return a function that compresses by a program."""

    def run(data: bytes) -> bytes:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not on this machine")
        return subprocess.run([name, "-c", *more], input=data, stdout=subprocess.PIPE, check=True).stdout

    return run


_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": _program("zstd"),
    "lz4": _program("lz4"),
}
_NUMBERS = {"gzip": 1, "bzip2": 2, "xz": 3, "zstd": 5}


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    return path


def _read(path: Path, **more: str) -> bytes:
    """The stream as it is found in a file."""
    with open_stream(path, **more) as opened:  # type: ignore[arg-type]
        assert opened.ends_file
        return opened.source.read(opened.start, opened.source.size)


def _refusal(path: Path, **more: str) -> str:
    with pytest.raises(UsageError) as caught:
        _read(path, **more)
    return caught.value.sentence


@pytest.mark.parametrize("name", _COMPRESSORS)
@pytest.mark.parametrize("stream", [_STREAM, _MAPPED], ids=["stream", "mapped-ram"])
def test_compressed_stream(tmp_path: Path, name: str, stream: bytes) -> None:
    """Each compression gives the stream, passes, is named, and is found in a folder."""
    packed = _COMPRESSORS[name](stream)
    path = _file(tmp_path, packed)
    assert _read(path) == stream
    verdict = check_file(path)
    assert verdict.status is Status.PASS
    assert verdict.facts["container"] == f"{name} data"
    assert verdict.facts[f"{name} bytes"] == len(packed)
    assert holds_stream(path)


@pytest.mark.parametrize("name", _COMPRESSORS)
def test_members_and_padding(tmp_path: Path, name: str) -> None:
    """A stream may be in several members, with zeros between and behind them, and longer than a piece."""
    pack, stream = _COMPRESSORS[name], _STREAM + os.urandom(300_000)
    parts = pack(stream[:1000]) + pack(b"") + pack(stream[1000:200_000]) + bytes(100) + pack(stream[200_000:])
    assert _read(_file(tmp_path, parts + bytes(70_000))) == stream


@pytest.mark.parametrize("name", _COMPRESSORS)
def test_data_that_is_cut_or_damaged(tmp_path: Path, name: str) -> None:
    """What can be read is judged, and the container is a violation of its own."""
    packed = _COMPRESSORS[name](_STREAM)
    verdict = check_file(_file(tmp_path, packed[:-5]))
    assert Code.CONTAINER_DAMAGED in [found.code for found in verdict.violations]
    assert "cannot be decompressed" in _refusal(_file(tmp_path, packed[:10]))
    verdict = check_file(_file(tmp_path, packed + b"rubbish"))
    assert [found.code for found in verdict.violations] == [Code.CONTAINER_TRAILING]


@pytest.mark.parametrize("name", _COMPRESSORS)
def test_flipped_byte_is_no_pass(tmp_path: Path, name: str) -> None:
    """A byte that changes in the middle never leaves a file right."""
    packed = bytearray(_COMPRESSORS[name](_STREAM))
    packed[len(packed) // 2] ^= 0xFF
    try:
        verdict = check_file(_file(tmp_path, bytes(packed)))
    except UsageError as error:
        # The only block of bzip2 data gives other bytes before its checksum is known.
        assert name == "bzip2" and "holds no vmstate stream" in error.sentence
    else:
        assert verdict.status is Status.FAIL


@pytest.mark.parametrize("name", _COMPRESSORS)
def test_data_without_a_stream(tmp_path: Path, name: str) -> None:
    """Other compressed data is told by its beginning, before it is copied, and is not found in a folder."""
    path = _file(tmp_path, _COMPRESSORS[name](b"\x7fELF" + bytes(12) + b"\4\0" + bytes(_MIB)))
    told = _refusal(path)
    assert f"The {name} data holds no vmstate stream" in told and "It is an ELF core." in told
    assert not holds_stream(path)
    assert "is empty" in _refusal(_file(tmp_path, _COMPRESSORS[name](b"")))


def test_data_that_expands_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream may expand to a bound that is free, and then by a factor; more is refused."""
    packed = bz2.compress(_STREAM + bytes(20 * _MIB))
    path = _file(tmp_path, packed)
    monkeypatch.setattr(compressed, "_FREE_EXPANSION", 21 * _MIB)
    monkeypatch.setattr(compressed, "_MOST_EXPANSION", 1)
    assert len(_read(path)) == len(_STREAM) + 20 * _MIB
    monkeypatch.setattr(compressed, "_FREE_EXPANSION", 19 * _MIB)
    assert "may be meant to fill a disk" in _refusal(path)
    monkeypatch.setattr(compressed, "_MOST_EXPANSION", 2 * _MIB // len(packed) + 1)
    assert len(_read(path)) == len(_STREAM) + 20 * _MIB


def test_copy_has_holes(tmp_path: Path) -> None:
    """Zeros take no room in the copy of a stream."""
    path = _file(tmp_path, gzip.compress(_STREAM + bytes(40 * _MIB)))
    with open_stream(path) as opened:
        status = os.fstat(opened.source.descriptor)
        assert status.st_size == len(_STREAM) + 40 * _MIB
        assert status.st_blocks * 512 < len(_STREAM) + 2 * _MIB


@pytest.mark.parametrize(
    ("name", "more"), [("zstd", ("--long=30", "-3", "--ultra")), ("xz", ("--lzma2=dict=256MiB",))]
)
def test_data_that_needs_much_memory(tmp_path: Path, name: str, more: tuple[str, ...]) -> None:
    """A window of more than 128 MiB is refused as our limit, and not blamed on the file."""
    packed = _program(name, *more)(_STREAM + os.urandom(_MIB))
    path = _file(tmp_path, packed)
    if name == "zstd":
        assert packed[4] & 0x20 == 0, "the frame has to have a window"
    assert "needs more than 128 MiB of memory" in _refusal(path)


def test_library_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without zstd's library the sentence says what to do."""
    path = _file(tmp_path, b"\x28\xb5\x2f\xfd" + bytes(20))
    shared_library._load.cache_clear()

    def absent(_name: str) -> None:
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(MachineryMissing, match=r"libzstd.so.1 that reads zstd data.*'zstd -d'"):
        _read(path)
    assert not holds_stream(path)


def test_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for the copy is the machine's fault, and names the folder and the variable."""
    path = _file(tmp_path, gzip.compress(_STREAM))

    def full(_copy: object, _piece: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(opening, "_write", full)
    with pytest.raises(SetupBroken, match=r"No space left on device. Set TMPDIR to a folder with more room"):
        _read(path)


@pytest.mark.parametrize("pack", [gzip.compress, lambda stream: qcow2(("a", stream))], ids=["gzip", "qcow2"])
def test_disk_that_is_full_in_the_midst(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """What is still buffered cannot be written when the copy is closed either; the sentence stays."""
    path = _file(tmp_path, pack(_STREAM))
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with pytest.raises(SetupBroken, match="Set TMPDIR to a folder with more room"):
            _read(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", [None, *_NUMBERS])
def test_save_image_of_libvirt(tmp_path: Path, order: str, name: str | None) -> None:
    """Both byte orders and each format: the stream, the domain's name and whether it ran."""
    packed = _COMPRESSORS[name](_STREAM) if name else _STREAM
    path = _file(
        tmp_path, save_image(packed, _NUMBERS[name] if name else 0, order, running=int(order == "<"))
    )
    assert _read(path) == _STREAM
    verdict = check_file(path)
    assert verdict.status is Status.PASS
    assert verdict.facts["domain"] == "web-1"
    assert verdict.facts["was running"] == ("yes" if order == "<" else "no")
    assert verdict.facts["byte order"] == ("little-endian" if order == "<" else "big-endian")
    more = f"; in it {name} data" if name else ""
    assert verdict.facts["container"] == f"libvirt save image, {name or 'raw'}{more}"
    assert holds_stream(path)


@pytest.mark.parametrize("running", [False, True])
def test_save_image_of_ours(tmp_path: Path, running: bool) -> None:
    """The reader understands what the writer writes, and so does libvirt by its layout of 92 bytes."""
    header = save_image_header(XML.decode(), running)
    order = "<" if sys.byteorder == "little" else ">"
    numbers = struct.pack(f"{order}5I", 2, len(XML) + 1, running, 0, 0)
    assert header == b"LibvirtQemudSave" + numbers + bytes(56) + XML + b"\0"
    path = _file(tmp_path, header + _STREAM)
    assert _read(path) == _STREAM
    facts = check_file(path).facts
    assert (facts["domain"], facts["was running"]) == ("web-1", "yes" if running else "no")


def test_save_image_inside_compressed_data(tmp_path: Path) -> None:
    """Somebody has compressed a save image: both are named."""
    path = _file(tmp_path, gzip.compress(save_image(bz2.compress(_STREAM), 2)))
    assert _read(path) == _STREAM
    named = check_file(path).facts["container"]
    assert named == "gzip data; in it libvirt save image, bzip2; in it bzip2 data"
    assert holds_stream(path)


def test_bytes_behind_a_save_image(tmp_path: Path) -> None:
    """Nothing follows the stream of a save image either."""
    verdict = check_file(_file(tmp_path, save_image(_STREAM) + b"x"))
    assert [found.code for found in verdict.violations] == [Code.TRAILING_BYTES_FOUND]


def test_unfinished_save_image(tmp_path: Path) -> None:
    """Libvirt does not restore it, so it does not pass."""
    verdict = check_file(_file(tmp_path, save_image(_STREAM, magic=b"LibvirtQemudPart")))
    assert [found.code for found in verdict.violations] == [Code.CONTAINER_UNFINISHED]


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (save_image(_STREAM)[:91], "ends within its header, after 91 bytes"),
        (save_image(_STREAM, 4), rf"lzop.*tail -c \+{92 + len(XML) + 12} FILE"),
        (save_image(_STREAM, 7), "unknown format 7; known are 0 to 6"),
        (save_image(_STREAM, 1), "compressed by gzip, and other data is at offset"),
        (b"LibvirtQemudSave" + struct.pack("<5I", 3, 0, 0, 0, 0) + bytes(56), "version 50331648"),
        (
            b"LibvirtQemudSave" + struct.pack("<5I", 2, (64 << 20) + 1, 0, 0, 0) + bytes(56),
            "more than libvirt",
        ),
        (save_image(b"rubbish"), "There is no vmstate stream at offset"),
    ],
)
def test_save_image_that_cannot_be_read(tmp_path: Path, image: bytes, told: str) -> None:
    """Each is one sentence."""
    with pytest.raises(UsageError, match=told):
        check_file(_file(tmp_path, image))


@pytest.mark.parametrize(
    ("xml", "name"),
    [
        (b"<domain><name>a&#7;</name></domain>", "(unknown: the XML is damaged)"),
        (b"<domstatus><domain><name>b</name></domain></domstatus>", "b"),
        (b"<domain/>", "(unknown)"),
        (b"<!DOCTYPE x [<!ENTITY a 'b'>]><domain><name>&a;</name></domain>", "declarations"),
        ("<domain><name>ü</name></domain>".encode(), "\\xc3\\xbc"),
        (b"", "damaged"),
        (b"<?xml version='1.0' encoding='nonsense'?><domain/>", "damaged"),
    ],
)
def test_name_of_a_domain(tmp_path: Path, xml: bytes, name: str) -> None:
    """It is untrusted text."""
    assert name in str(check_file(_file(tmp_path, save_image(_STREAM, xml=xml))).facts["domain"])


def test_snapshot_in_qcow2(tmp_path: Path) -> None:
    """The only snapshot needs no name; of several one is chosen by name or id."""
    path = _file(tmp_path, qcow2(("before", _STREAM)))
    assert _read(path) == _read(path, snapshot="before") == _read(path, snapshot="1") == _STREAM
    verdict = check_file(path)
    assert verdict.status is Status.PASS
    assert verdict.facts["container"] == "qcow2 image, internal snapshot"
    assert (verdict.facts["snapshot"], verdict.facts.get("snapshots")) == ("before", None)
    assert holds_stream(path)
    path = _file(tmp_path, qcow2(("2", _STREAM), ("after", _OTHER), ("disk only", b"")))
    assert "2 snapshots with the state of a guest; choose one with --snapshot: '2', 'after'" in _refusal(path)
    assert _read(path, snapshot="after") == _OTHER
    # QEMU looks for a name before it looks for an id.
    assert _read(path, snapshot="2") == _STREAM
    assert "no snapshot 'disk only'" in _refusal(path, snapshot="disk only")
    assert diff_files(path, path, snapshots=("2", "2")).same
    assert not diff_files(path, path, snapshots=("2", "after")).same


@pytest.mark.parametrize("extra_bytes", [0, 8, 16])
@pytest.mark.parametrize("disk_bytes", [CLUSTER, CLUSTER * 64, CLUSTER * 64 + 1, CLUSTER * 64 * 3])
def test_place_of_the_state_in_qcow2(tmp_path: Path, extra_bytes: int, disk_bytes: int) -> None:
    """It begins behind the disk's end, rounded up to an L1 entry; the length may be a small field."""
    image = qcow2(("a", _MAPPED), disk_bytes=disk_bytes, extra_bytes=extra_bytes, version=3)
    assert _read(_file(tmp_path, image)) == _MAPPED


def test_qcow2_of_version_2(tmp_path: Path) -> None:
    """It has no features, and other content where version 3 has them."""
    assert _read(_file(tmp_path, qcow2(("a", _STREAM), version=2, features=1 << 2))) == _STREAM


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (qcow2(), "it has no internal snapshot and so has no state of a running guest"),
        (qcow2(("disk", b"")), "its 1 snapshots have no state of a running guest"),
        (qcow2(("a", _STREAM), crypt=1), "is encrypted"),
        (qcow2(("a", _STREAM), features=1 << 2), "data in another file"),
        (qcow2(("a", _STREAM), features=1 << 4), "extended L2 entries"),
        (qcow2(("a", _STREAM), version=1), "version 1"),
        (qcow2(("a", _STREAM))[:71], "ends within its header, after 71 bytes"),
        (qcow2(("a", _STREAM))[:-40], "snapshot table ends early"),
    ],
)
def test_qcow2_that_cannot_be_read(tmp_path: Path, image: bytes, told: str) -> None:
    """Each is one sentence."""
    assert told in _refusal(_file(tmp_path, image))


def _patched(offset: int, form: str, value: int) -> bytes:
    image = bytearray(qcow2(("a", _STREAM)))
    struct.pack_into(form, image, offset, value)
    return bytes(image)


def _entry_at(image: bytes) -> int:
    return int(struct.unpack_from(">Q", image, 64)[0])


def _in_table(offset: int, form: str, value: int) -> bytes:
    return _patched(_entry_at(qcow2(("a", _STREAM))) + offset, form, value)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (_patched(20, ">I", 8), "2 to the power of 8"),
        (_patched(20, ">I", 22), "2 to the power of 22"),
        (_patched(60, ">I", 65_537), "65537 snapshots"),
        (_in_table(0, ">Q", 1 << 50), "an L1 table is at"),
        (_in_table(8, ">I", 1), "does not fit"),
        (_in_table(8, ">I", (32 << 20) // 8 + 1), "does not fit"),
        (_in_table(36, ">I", 1025), "1025 bytes of extra data"),
        (_in_table(40, ">Q", (16 << 40) + 1), "more than there can be"),
        (_in_table(48, ">Q", 1 << 62), "does not fit"),
    ],
)
def test_damaged_qcow2(tmp_path: Path, image: bytes, told: str) -> None:
    """No length or offset in it is believed."""
    assert told in _refusal(_file(tmp_path, image))


@pytest.mark.parametrize(
    ("value", "told"),
    [(1 << 62, "compressed clusters"), (1 << 40, "where there is none"), (1 << 9 | 1, "")],
)
def test_damaged_entry_of_qcow2(tmp_path: Path, value: int, told: str) -> None:
    """An entry names a cluster of the image; with the lowest bit it stands for zeros."""
    image = bytearray(qcow2(("a", _STREAM)))
    l1_at = struct.unpack_from(">Q", image, _entry_at(bytes(image)))[0]
    l2_at = struct.unpack_from(">Q", image, l1_at + 16)[0] & ~(1 << 63)
    struct.pack_into(">Q", image, l2_at + 8, value)
    path = _file(tmp_path, bytes(image))
    if told:
        assert told in _refusal(path)
    else:
        assert _read(path)[CLUSTER : 2 * CLUSTER] == bytes(CLUSTER)


def test_clusters_that_are_used_again_and_again(tmp_path: Path) -> None:
    """A small image cannot name one cluster for a stream that fills a disk."""
    image = bytearray(qcow2(("a", _STREAM)))
    l1_at = struct.unpack_from(">Q", image, _entry_at(bytes(image)))[0]
    first = struct.unpack_from(">Q", image, l1_at + 16)[0] & ~(1 << 63)
    again = bytes(image) + struct.pack(">Q", first) * 4096
    changed = bytearray(again)
    struct.pack_into(">QI", changed, _entry_at(bytes(image)), len(image) - 8, 4096)
    struct.pack_into(">Q", changed, _entry_at(bytes(image)) + 40, 4000 * CLUSTER * 64)
    assert "more" in _refusal(_file(tmp_path, bytes(changed)))


def test_snapshot_of_no_qcow2(tmp_path: Path) -> None:
    """--snapshot needs an image."""
    assert "--snapshot a names an internal snapshot of a qcow2 image" in _refusal(
        _file(tmp_path, _STREAM), snapshot="a"
    )


@pytest.mark.parametrize(
    ("size", "rest", "passes"),
    [
        (2 * _MIB, b"", True),
        (2 * _MIB - 1, b"", False),
        (2 * _MIB + 4096, b"", False),
        (2 * _MIB, b"x", False),
        (130 * _MIB, b"", True),
        (130 * _MIB, b"x", False),
    ],
)
def test_padding_of_a_volume(tmp_path: Path, size: int, rest: bytes, passes: bool) -> None:
    """Zeros to a whole MiB are padding; other lengths, and other bytes in it, are trailing bytes."""
    path = _file(tmp_path, _STREAM)
    with path.open("r+b") as file:
        file.truncate(size - len(rest))
        file.seek(0, os.SEEK_END)
        file.write(rest)
    verdict = check_file(path)
    assert (verdict.status is Status.PASS) is passes
    if passes:
        found = verdict.check("trailing-bytes")
        assert found and found.facts["bytes of padding"] == size - len(_STREAM)
        devices = verdict.check("vmdesc")
        assert devices and devices.status is Status.PASS
    else:
        assert [one.code for one in verdict.violations] == [Code.TRAILING_BYTES_FOUND]


@pytest.mark.parametrize(
    ("size", "rest", "passes"),
    [
        (len(_STREAM), b"", True),
        (2 * _MIB, b"", True),
        (40 * _MIB, b"", True),
        (2 * _MIB - 1, b"", False),
        (2 * _MIB, b"x", False),
        (40 * _MIB, b"x", False),
    ],
)
def test_padding_through_a_pipe(size: int, rest: bytes, passes: bool) -> None:
    """A pipe is read to its end: zeros to a whole MiB are padding, all else behind the stream is wrong."""
    raw = (_STREAM + bytes(size - len(_STREAM) - len(rest)) if size > len(_STREAM) else _STREAM) + rest
    index = read_index(PipeSource(io.BytesIO(raw)))
    assert (index.file_size, index.end) == (size, len(_STREAM))
    assert index.padding == (size - len(_STREAM) if passes else 0)
    wrong = [found.code for check in check_structure(index) for found in check.violations]
    assert wrong == ([] if passes else [Code.TRAILING_BYTES_FOUND])


def test_padding_behind_a_damaged_stream(tmp_path: Path) -> None:
    """A stream that is cut, in a volume, stays cut."""
    assert check_file(_file(tmp_path, _STREAM[:-2000].ljust(2 * _MIB, b"\0"))).status is Status.FAIL


def test_stream_at_an_offset(tmp_path: Path) -> None:
    """Behind a stream whose place the user gave the file may go on; a container may be at an offset too."""
    path = _file(tmp_path, bytes(100) + _STREAM + b"more")
    assert check_file(path, offset=100).status is Status.PASS
    path = _file(tmp_path, bytes(100) + gzip.compress(_STREAM))
    verdict = check_file(path, offset=100)
    assert (verdict.status, verdict.facts["container"]) == (Status.PASS, "gzip data")


def test_bytes_behind_a_container_at_an_offset(tmp_path: Path) -> None:
    """Where the user gave it, the file may go on behind compressed data too; a qcow2 image has none."""
    path = _file(tmp_path, bytes(100) + gzip.compress(_STREAM) + b"more")
    assert check_file(path, offset=100).status is Status.PASS
    path = _file(tmp_path, bytes(512) + qcow2(("a", _STREAM)))
    with pytest.raises(UsageError, match=r"image must begin with the file, and this one is at offset 512"):
        check_file(path, offset=512)


@pytest.mark.parametrize("more", [{"crypt": 1}, {"features": 1 << 2}, {"features": 1 << 4}])
def test_qcow2_without_a_stream_holds_none(tmp_path: Path, more: dict[str, int]) -> None:
    """Then its kind does not matter; one with a stream is judged by itself."""
    path = _file(tmp_path, qcow2(**more))
    assert not holds_stream(path)
    assert "it has no internal snapshot" in _refusal(path)
    assert holds_stream(_file(tmp_path, qcow2(("a", _STREAM), **more)))


def test_extraction_from_a_container(tmp_path: Path) -> None:
    """RAM comes out of a container as out of the file."""
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(_STREAM)
    packed.write_bytes(save_image(lzma.compress(_STREAM), 3))
    extract(plain, tmp_path / "a")
    content = extract(packed, tmp_path / "b")
    for entry in content["blocks"]:
        assert (tmp_path / "a" / entry["file"]).read_bytes() == (tmp_path / "b" / entry["file"]).read_bytes()
    assert content["facts"]["domain"] == "web-1"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\x7fELF\2\1" + bytes(10) + b"\2\0", "It is an ELF program."),
        (b"KDUMP   ", "It is a kdump file. Such a dump"),
        (b"KDMV", "a VMDK disk image. A disk image has no state"),
        (bytes(0x8001) + b"CD001", "an ISO image"),
        (bytes(510) + b"\x55\xaa", "a raw disk image with a boot sector"),
        (bytes(510) + b"\x55\xaaEFI PART", "a GUID partition table"),
        (bytes(257) + b"ustar", "a tar archive. Unpack it."),
        (bytes(4096), "'snapproof check --raw FILE' judges the agent's pages in it"),
    ],
)
def test_file_of_another_kind(tmp_path: Path, content: bytes, told: str) -> None:
    """It is told what it is and what to do instead."""
    with pytest.raises(UsageError) as caught:
        check_file(_file(tmp_path, content))
    assert told in caught.value.sentence
    with pytest.raises(UsageError) as caught:
        read_index(PipeSource(io.BytesIO(content)))
    assert told in caught.value.sentence


@pytest.mark.parametrize(
    "content", [b"\x7fELF\2\1" + bytes(10) + b"\4\0", b"\x7fELF\2\2" + bytes(10) + b"\0\4"]
)
def test_elf_core(tmp_path: Path, content: bytes) -> None:
    """Of either byte order: commands that need a stream name the one that does not."""
    told = "It is an ELF core. 'snapproof check' judges the agent's pages in it. Such a dump has RAM"
    with pytest.raises(UsageError) as caught:
        read_index(PipeSource(io.BytesIO(content)))
    assert told in caught.value.sentence
    with pytest.raises(UsageError, match="no table of segments"):
        check_file(_file(tmp_path, content))


@pytest.mark.parametrize("content", [gzip.compress(_STREAM), save_image(_STREAM)])
def test_container_from_a_pipe(content: bytes) -> None:
    """A pipe is told what came through it."""
    with pytest.raises(UsageError, match="read from a file, and not from a pipe"):
        read_index(PipeSource(io.BytesIO(content)))


_SEEDS = (
    qcow2(("a", _STREAM[:3000])),
    save_image(_STREAM[:3000]),
    save_image(gzip.compress(_STREAM[:3000]), 1),
    *(pack(_STREAM[:3000]) for pack in (gzip.compress, bz2.compress, lzma.compress)),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(_SEEDS),
    st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=8)), max_size=4),
    st.integers(0, 5000),
)
@example(_SEEDS[0], [(60, b"\0\1\0\0")], 5000)
def test_hostile_container(tmp_path: Path, seed: bytes, edits: list[tuple[int, bytes]], length: int) -> None:
    """Whatever a header says, the answer is a verdict or one sentence, and no copy larger than its bound."""
    content = bytearray(seed)
    for at, data in edits:
        content[at : at + len(data)] = data
    path = _file(tmp_path, bytes(content[: max(1, length)]))
    try:
        verdict = check_file(path)
    except UsageError as error:
        assert error.sentence.endswith(".")
    else:
        assert verdict.status in (Status.PASS, Status.FAIL)


def test_no_compiled_module_is_needed() -> None:
    """The containers start without numpy's arrays of pages and without any package that is not ours."""
    code = "import sys, validators.vmstate.containers.compressed; print('zstandard' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "False\n"
