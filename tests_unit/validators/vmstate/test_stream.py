"""Contract: the stream reader indexes every valid stream and reports every damage without an exception."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.codes import Code
from harness.errors import UsageError
from harness.status import Status
from tests_unit.support.synthetic_stream import PAGE, Guest, Writer
from validators.judge import check_file
from validators.oracles.o4_structure.structure import check_structure
from validators.vmstate.devices import decode_devices
from validators.vmstate.pages import PageReader
from validators.vmstate.stream import PipeSource, SnapshotIndex, open_source, read_index

_SMALL = Writer(Guest(counts=(8, 6), steps=(20, 9), ram_pages=240)).stream()
_MAPPED = Writer(Guest(counts=(8, 6), steps=(20, 9), ram_pages=240), mapped=True).stream()


def _index(path: Path, data: bytes, start: int = 0) -> SnapshotIndex:
    path.write_bytes(data)
    with open_source(path) as source:
        return read_index(source, start)


def _failed(index: SnapshotIndex) -> set[str]:
    return {check.name for check in check_structure(index) if check.status is Status.FAIL}


@pytest.mark.parametrize("mapped", [False, True])
def test_every_page_is_found_with_its_content(tmp_path: Path, mapped: bool) -> None:
    """Each page of each RAMBlock is read back bit for bit, whatever the layout."""
    writer = Writer(Guest(), mapped=mapped)
    path = tmp_path / "file"
    path.write_bytes(writer.stream())
    with open_source(path) as source:
        index = read_index(source)
        reader = PageReader(source, index)
        for block, (name, ram) in zip(index.blocks, writer.blocks(), strict=True):
            assert block.idstr == name
            result = np.zeros_like(ram)
            for batch in reader.batches(block):
                result[batch.pages] = batch.words
            assert np.array_equal(result, ram)
            assert reader.page(block, 1) == ram[1].tobytes()
    assert index.damage is None
    assert not _failed(index)


# Two registers that look like the device's own footer with an end marker behind it.
_LIKE_A_FOOTER = ([1, 0x7E, 10, 0], [0x7E, 11, 0x6AB], [0x7E, 12, 0, 3])


@pytest.mark.parametrize("registers", [([1, 2, 3], [4, 5], [6]), _LIKE_A_FOOTER])
def test_file_cut_anywhere_in_its_devices_is_truncated(
    tmp_path: Path, registers: tuple[list[int], ...]
) -> None:
    """A file cut anywhere in its devices is "truncated", and all whole sections before the cut are found."""
    writer = Writer(Guest(counts=(8, 6), steps=(20, 9), ram_pages=240), registers=registers)
    whole = writer.stream()
    sound = _index(tmp_path / "whole", whole)
    assert sound.damage is None and sound.end_marker is not None
    for cut in range(sound.devices[0].offset + 1, sound.end_marker + 1):
        index = _index(tmp_path / "cut", whole[:cut])
        complete = tuple(section for section in sound.sections if section.data_end + 5 <= cut)
        if any(whole[:cut].endswith(bytes([0x7E, 0, 0, 0, number, *end])) for number in (10, 11, 12)
               for end in ((), (0,))):  # fmt: skip
            continue  # nothing tells such a cut from the end of the section
        assert index.sections == complete, cut
        assert index.damage is not None and index.damage.check == "truncated", cut


def test_pages_in_any_order_and_broken_runs(tmp_path: Path) -> None:
    """The order of records and the mixture of zero and data pages do not matter."""
    guest = Guest()
    order = np.random.default_rng(3).permutation(guest.ram_pages).tolist()
    writer = Writer(guest, order=order, pages_per_section=7)
    path = tmp_path / "file"
    path.write_bytes(writer.stream())
    with open_source(path) as source:
        index = read_index(source)
        result = np.zeros_like(guest.ram)
        for batch in PageReader(source, index).batches(index.blocks[0]):
            result[batch.pages] = batch.words
    assert np.array_equal(result, guest.ram)
    assert not _failed(index)


def test_stream_at_an_offset(tmp_path: Path) -> None:
    """A stream inside a larger file is read where it begins."""
    index = _index(tmp_path / "file", b"x" * 12345 + _SMALL, 12345)
    assert index.damage is None
    assert index.start == 12345
    assert not _failed(index)


def test_pipe_gives_the_same_structure(tmp_path: Path) -> None:
    """A pipe gives the same structure as a file for all that needs no seeking."""
    from_file = _index(tmp_path / "file", _SMALL)
    from_pipe = read_index(PipeSource(io.BytesIO(_SMALL)))
    assert from_pipe.damage is None
    assert from_pipe.sections == from_file.sections
    assert np.array_equal(from_pipe.blocks[0].page_source, from_file.blocks[0].page_source)


def test_mapped_ram_from_a_pipe_is_refused() -> None:
    """A mapped-ram file needs seeking, and the verdict says so."""
    index = read_index(PipeSource(io.BytesIO(_MAPPED)))
    assert index.damage is not None
    assert index.damage.check == "pipe"


def test_device_fields_are_decoded(tmp_path: Path) -> None:
    """Device state comes out as named fields, arrays and subsections."""
    path = tmp_path / "file"
    path.write_bytes(_SMALL)
    with open_source(path) as source:
        devices = decode_devices(source, read_index(source))
    assert devices["dev0 (0)"] == {"reg": [1, 2, 3], "dev0/extra": {"deep": 99}}


@pytest.mark.parametrize("data", [b"", b"QEV", b"\x7fELF" + bytes(100), b"QFI\xfb" * 30])
def test_no_vmstate_is_a_usage_error(tmp_path: Path, data: bytes) -> None:
    """A file of another kind is the user's mistake, not a bad snapshot."""
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(UsageError):
        check_file(path)


def test_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    """A path that cannot be opened is named in one sentence."""
    with pytest.raises(UsageError, match="cannot be opened"):
        check_file(tmp_path / "nothing")


@pytest.mark.parametrize("claim", [1 << 63, (1 << 64) - 4096, 1 << 44])
def test_absurd_block_sizes_cost_no_memory(tmp_path: Path, claim: int) -> None:
    """A header may claim any amount of RAM; it is refused before anything is allocated."""
    at = _SMALL.index(b"\x06pc.ram") + 7
    total = struct.pack(">Q", (claim + PAGE * 2) % (1 << 64) // PAGE * PAGE | 4)
    data = _SMALL[: at - 15] + total + _SMALL[at - 7 : at] + struct.pack(">Q", claim) + _SMALL[at + 8 :]
    index = _index(tmp_path / "file", data)
    assert index.damage is not None
    assert index.damage.check == "block-size"


@pytest.mark.parametrize("flag", [0x40, 0x100, 0x80, 0x01])
def test_unsupported_records_are_refused_by_name(tmp_path: Path, flag: int) -> None:
    """XBZRLE, compressed, RDMA and obsolete records are named, not misread."""
    path = tmp_path / "file"
    with_record = _index(path, _SMALL)
    at = int(with_record.blocks[0].page_source[with_record.blocks[0].page_source > 0].max()) - 8
    word = int.from_bytes(_SMALL[at : at + 8], "big") & ~0xFFF | flag | 0x20
    index = _index(path, _SMALL[:at] + struct.pack(">Q", word) + _SMALL[at + 8 :])
    assert index.damage is not None
    assert index.damage.check == "page-flags"
    assert index.damage.code is Code.PAGE_FLAGS_UNSUPPORTED
    assert index.damage.offset == at


def test_hostile_vmdesc_is_refused(tmp_path: Path) -> None:
    """Deep or endless JSON neither crashes nor hangs the reader."""
    end = _SMALL.rindex(b"\x00\x06") + 2
    for text in (b"[" * 100_000, b'{"devices":' + b"[" * 5000, b'{"devices": [{"name": 3}]}', b"\xff\xfe"):
        index = _index(tmp_path / "file", _SMALL[:end] + struct.pack(">I", len(text)) + text)
        assert index.vmdesc is not None
        assert index.vmdesc.problem
        assert "vmdesc" in _failed(index)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_streams_never_raise(tmp_path: Path, data: st.DataObject) -> None:
    """Any change of bytes gives a verdict or a UsageError, and no other error."""
    base = data.draw(st.sampled_from([_SMALL, _MAPPED[:200_000]]))
    mutated = bytearray(base)
    interesting = st.one_of(
        st.integers(0, 400), st.integers(len(base) - 1200, len(base) - 1), st.integers(0, len(base) - 1)
    )
    for _ in range(data.draw(st.integers(1, 6))):
        at = min(data.draw(interesting), len(mutated) - 1)
        mutated[at : at + 1] = data.draw(st.binary(max_size=9))
    mutated = mutated[: data.draw(st.integers(len(mutated) // 2, len(mutated)))]
    path = tmp_path / "file"
    path.write_bytes(mutated)
    try:
        verdict = check_file(path)
    except UsageError:
        return
    assert verdict.to_json()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tail=st.binary(max_size=600))
def test_arbitrary_bytes_never_raise(tmp_path: Path, tail: bytes) -> None:
    """Any bytes behind the magic and a plausible start give a verdict."""
    for head in (b"QEVM\0\0\0\3", _SMALL[:52], _SMALL[:110], _MAPPED[:130]):
        path = tmp_path / "file"
        path.write_bytes(head + tail)
        verdict = check_file(path)
        assert verdict.status in (Status.FAIL, Status.PASS)
        index = read_index(PipeSource(io.BytesIO(head + tail)))
        assert index.start == 0
