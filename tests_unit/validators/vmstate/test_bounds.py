"""Contract: time and memory of a check follow the size of the file, never what the file claims."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.codes import Code
from tests_unit.support.synthetic_stream import PAGE
from validators.vmstate.devices import decode_devices
from validators.vmstate.stream import PipeSource, SnapshotIndex, open_source, read_index
from validators.vmstate.stream import format as fmt

_MIB = 1 << 20
_SECONDS = 5.0
_PEAK_MIB = 300

_MEASURE = """
import sys, time
from pathlib import Path
from validators.judge import check_file
before = time.process_time()
check_file(Path(sys.argv[1])).to_json()
seconds = time.process_time() - before
# Not ru_maxrss: that begins with the peak of the process that this one was forked from.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), seconds)
"""


def _name(text: str) -> bytes:
    return bytes([len(text)]) + text.encode("latin-1")


def _footer(section: int) -> bytes:
    return b"\x7e" + struct.pack(">I", section)


def _head(*blocks: tuple[str, int]) -> bytes:
    """A stream up to the end of its block list."""
    out = struct.pack(">II", fmt.MAGIC, fmt.VERSION)
    out += b"\1" + struct.pack(">I", 2) + _name("ram") + struct.pack(">II", 0, fmt.RAM_VERSION)
    out += struct.pack(">Q", sum(size for _, size in blocks) | fmt.FLAG_MEM_SIZE)
    out += b"".join(_name(name) + struct.pack(">Q", size) for name, size in blocks)
    return out + struct.pack(">Q", fmt.FLAG_EOS) + _footer(2)


def _part(records: bytes) -> bytes:
    return b"\2" + struct.pack(">I", 2) + records + struct.pack(">Q", fmt.FLAG_EOS) + _footer(2)


def _end(vmdesc: bytes = b'{"devices":[]}') -> bytes:
    return b"\0\6" + struct.pack(">I", len(vmdesc)) + vmdesc


def _zero(page: int, block: str = "", fill: int = 0) -> bytes:
    word = page * PAGE | fmt.FLAG_ZERO | (0 if block else fmt.FLAG_CONTINUE)
    return struct.pack(">Q", word) + (_name(block) if block else b"") + bytes([fill])


def _device(number: int, name: str) -> bytes:
    return b"\4" + struct.pack(">I", number) + _name(name) + struct.pack(">II", 0, 1)


def _scattered(pages: int, step: int) -> bytes:
    return _part(_zero(0, "a") + b"".join(_zero(number * step) for number in range(1, pages)))


_SMALL = _head(("a", _MIB))
_LARGE = _head(("a", 1 << 30))
_HOSTILE = {
    "1 TiB of RAM, records far apart": _head(("a", 1 << 40)) + _scattered(1024, 1 << 18) + _end(),
    "64 GiB of RAM, records far apart": _head(("a", 1 << 36)) + _scattered(4096, 4096) + _end(),
    "64 GiB of RAM, no record": _head(("a", 1 << 36)) + _end(),
    "1 TiB of RAM in many blocks": _head(*((f"b{number}", 1 << 30) for number in range(1024))) + _end(),
    "every record names its block": _LARGE + _part(_zero(5, "a") * 100_000) + _end(),
    "records take turns between blocks": _head(("a", _MIB), ("b", _MIB))
    + _part((_zero(5, "a") + _zero(6, "b")) * 50_000)
    + _end(),
    "every record names an unknown block": _LARGE + _part(_zero(5, "x") * 100_000) + _end(),
    "one page over and over": _LARGE + _part(_zero(5, "a") + _zero(5) * 400_000) + _end(),
    "every page outside its block": _LARGE + _part(_zero(5, "a") + _zero(1 << 40) * 400_000) + _end(),
    "every fill byte wrong": _LARGE + _part(_zero(5, "a") + _zero(6, fill=7) * 400_000) + _end(),
    "words that only flush": _LARGE + _part(struct.pack(">Q", fmt.FLAG_MULTIFD_FLUSH) * 400_000) + _end(),
    "empty sections": _LARGE + _part(b"") * 50_000 + _end(),
    "commands": _LARGE + b"\x08\0\2\0\0" * 400_000 + _end(),
    "devices with nothing plausible behind": _SMALL
    + b"".join(_device(number, "\xff") + _footer(number) for number in range(3, 20_000))
    + bytes(8 * _MIB),
    "footers with nothing plausible behind": _SMALL + _device(3, "d") + (_footer(3) + b"\xff") * _MIB,
    "a device without an end": _SMALL + _device(3, "d") + b"\xff" * (70 * _MIB),
    "many beginnings of a vmdesc": _SMALL + b"\0\6\0\0\0\5{" * (2 * _MIB),
    "an array of many subsections": _SMALL
    + _device(3, "d")
    + _footer(3)
    + _end(
        b'{"devices":[{"name":"d","instance_id":0,"fields":[{"name":"f","size":7,"array_len":67108864,'
        b'"struct":{"fields":[],"subsections":[{"vmsd_name":"a","fields":[]}]}}]}]}'
    ),
    "vmdesc of many strings": _SMALL + _end(b'{"devices":[],"x":[' + b'"ab",' * 900_000 + b"0]}"),
    "vmdesc of many keys": _SMALL
    + _end(b'{"devices":[],"x":{' + b",".join(b'"k%d":1' % number for number in range(450_000)) + b"}}"),
}


@pytest.mark.parametrize("data", _HOSTILE.values(), ids=_HOSTILE.keys())
def test_hostile_files_cost_little(tmp_path: Path, data: bytes) -> None:
    """A check of a file made to be slow, or a pipe's reading, stays under 5 s of CPU and 300 MiB."""
    path = tmp_path / "file"
    path.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    kib, seconds = done.stdout.split()
    assert int(kib) / 1024 < _PEAK_MIB
    assert float(seconds) < _SECONDS
    before = time.process_time()
    read_index(PipeSource(io.BytesIO(data)))
    assert time.process_time() - before < _SECONDS


def _read(path: Path) -> SnapshotIndex:
    with open_source(path) as source:
        return read_index(source)


def test_cost_is_linear_in_the_records(tmp_path: Path) -> None:
    """Ten times the records take about ten times the time, not a hundred times."""
    seconds = []
    for count in (20_000, 200_000):
        path = tmp_path / "file"
        path.write_bytes(_LARGE + _part((_zero(5, "a") + _zero(6)) * count) + _end())
        before = time.process_time()
        _read(path)
        seconds.append(time.process_time() - before)
    assert seconds[1] < 30 * seconds[0]


@pytest.mark.parametrize("record", [_zero(5, "a"), struct.pack(">Q", fmt.FLAG_MULTIFD_FLUSH)])
def test_too_many_small_records_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: bytes
) -> None:
    """Records that are read one by one are counted, and too many end the reading with a sentence."""
    monkeypatch.setattr(fmt, "MAX_SMALL_RECORDS", 100)
    path = tmp_path / "file"
    path.write_bytes(_LARGE + _part(_zero(5, "a") + record * 99) + _end())
    assert _read(path).damage is None
    path.write_bytes(_LARGE + _part(_zero(5, "a") + record * 100) + _end())
    index = _read(path)
    damage = index.damage
    assert damage is not None
    assert damage.code is Code.PAGE_FLAGS_SMALL_RECORDS
    assert index.blocks[0].page_source[5] < 0
    assert "More than 100 records" in damage.sentence
    assert path.read_bytes()[damage.offset : damage.offset + 8] == record[:8]


def test_block_that_cannot_be_in_the_file_gets_no_memory(tmp_path: Path) -> None:
    """Pages beyond what the file could hold records for are refused at the first record."""
    path = tmp_path / "file"
    path.write_bytes(_head(("a", 1 << 40)) + _part(_zero(5, "a")) + _end())
    index = _read(path)
    assert index.damage is not None
    assert index.damage.check == "truncated"
    assert index.blocks[0].pages == 1 << 28


def test_devices_share_one_limit_of_fields(tmp_path: Path) -> None:
    """Fields without a size cannot multiply a small file into gigabytes of values."""
    numbers = range(3, 500)
    entry = {"name": "f", "size": 0, "array_len": 1 << 20, "type": "uint8"}
    devices = [{"name": f"d{number}", "instance_id": 0, "fields": [entry]} for number in numbers]
    sections = b"".join(_device(number, f"d{number}") + _footer(number) for number in numbers)
    path = tmp_path / "file"
    path.write_bytes(_SMALL + sections + _end(json.dumps({"devices": devices}).encode()))
    with open_source(path) as source:
        decoded = decode_devices(source, read_index(source))
    assert len(decoded) == len(numbers)
    assert sum("error" in device for device in decoded.values()) == len(numbers) - 1
