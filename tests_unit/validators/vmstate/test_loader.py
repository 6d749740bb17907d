"""Contract: what QEMU's loader refuses is named with its code, and what it takes passes."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest

from harness.codes import Code
from harness.status import Status
from tests_unit.support.synthetic_stream import Guest, Writer
from validators.faults.files import CATALOGUE, apply_fault
from validators.judge import check_file
from validators.oracles.o4_structure.structure import check_structure
from validators.vmstate.stream import PipeSource, read_index
from validators.vmstate.stream import format as fmt

_REFUSED = {
    "configuration-dropped": Code.CONFIGURATION_ABSENT,
    "configuration-doubled": Code.CONFIGURATION_PLACE,
    "capability-unknown": Code.CONFIGURATION_CAPABILITY,
    "configuration-version": Code.CONFIGURATION_SUBSECTION_VERSION,
    "command-ping": Code.SECTIONS_COMMAND_PLACE,
    "command-postcopy-run": Code.SECTIONS_COMMAND_PLACE,
    "command-packaged": Code.SECTIONS_COMMAND_PLACE,
    "command-return-path": Code.SECTIONS_COMMAND_PLACE,
    "command-too-long": Code.SECTIONS_COMMAND_LENGTH,
    "ram-instance": Code.SECTIONS_RAM_INSTANCE,
    "iterable-state": Code.SAVED_AFTER_T0_ITERABLE,
    "block-unnamed": Code.BLOCK_LIST_NO_NAME,
    "subsection-type": Code.VMDESC_SUBSECTION,
    "subsection-renamed": Code.VMDESC_SUBSECTION,
    "subsection-version": Code.VMDESC_SUBSECTION_VERSION,
}


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A sound background snapshot."""
    path = tmp_path / "sound"
    path.write_bytes(Writer(Guest(agent=False)).stream())
    assert check_file(path).status is Status.PASS
    return path


@pytest.mark.parametrize(("name", "code"), _REFUSED.items())
def test_what_the_loader_refuses_has_its_code(sound: Path, tmp_path: Path, name: str, code: Code) -> None:
    """Each such fault gives exactly one violation, from a file and from a pipe alike."""
    fault = next(fault for fault in CATALOGUE if fault.name == name)
    damaged = tmp_path / "damaged"
    assert apply_fault(sound, fault, damaged)
    assert [found.code for found in check_file(damaged).violations] == [code]
    piped = check_structure(read_index(PipeSource(io.BytesIO(damaged.read_bytes()))))
    assert [found.code for check in piped for found in check.violations] == [code]


def _command(number: int, content: bytes = b"") -> bytes:
    return bytes([fmt.COMMAND]) + struct.pack(">HH", number, len(content)) + content


_RAM = b"\1\0\0\0\2\3ram"
_RAM_END = b"\3\0\0\0\2" + struct.pack(">Q", fmt.FLAG_EOS) + b"\x7e\0\0\0\2"
_FIRST_DEVICE = b"\4\0\0\0\x0a\4dev0"


def _precopy(commands: bytes) -> bytes:
    """A save with its END section and commands before RAM."""
    stream = Writer(Guest(agent=False)).stream()
    return stream.replace(_FIRST_DEVICE, _RAM_END + _FIRST_DEVICE).replace(_RAM, commands + _RAM)


_OPEN, _PING = _command(1), _command(2, bytes(4))


@pytest.mark.parametrize(
    "commands", [b"", _OPEN + _PING, _OPEN + _PING + _command(3, bytes(16)), _command(3), _command(11)]
)
def test_commands_that_qemu_takes_pass(tmp_path: Path, commands: bytes) -> None:
    """QEMU 10.0 writes and loads these with return-path, postcopy-ram and dirty-bitmaps."""
    path = tmp_path / "file"
    path.write_bytes(_precopy(commands))
    verdict = check_file(path)
    assert verdict.facts["flow"] == "precopy"
    assert verdict.status is Status.PASS


@pytest.mark.parametrize(
    ("commands", "code"),
    [
        (_PING + _OPEN, Code.SECTIONS_COMMAND_PLACE),
        (_command(3) + _command(3), Code.SECTIONS_COMMAND_PLACE),
        (_command(1, b"\0"), Code.SECTIONS_COMMAND_LENGTH),
        (_OPEN + _command(2, bytes(5)), Code.SECTIONS_COMMAND_LENGTH),
        (_command(3, bytes(8)), Code.SECTIONS_COMMAND_LENGTH),
        *((_command(number), Code.SECTIONS_COMMAND_PLACE) for number in (4, 5, 6, 7, 8, 9, 10)),
    ],
)
def test_commands_that_qemu_refuses_fail(tmp_path: Path, commands: bytes, code: Code) -> None:
    """A PING without a return path, an advice given twice, a wrong length, all that belongs to a postcopy."""
    path = tmp_path / "file"
    path.write_bytes(_precopy(commands))
    assert [found.code for found in check_file(path).violations] == [code]


@pytest.mark.parametrize("commands", [_OPEN, _command(3, bytes(16))])
def test_no_background_snapshot_has_a_return_path(tmp_path: Path, commands: bytes) -> None:
    """QEMU refuses the capability together with background-snapshot."""
    path = tmp_path / "file"
    path.write_bytes(Writer(Guest(agent=False)).stream().replace(_RAM, commands + _RAM))
    assert Code.SECTIONS_COMMAND_PLACE in [found.code for found in check_file(path).violations]


def test_old_machine_types_have_neither_configuration_nor_footers(tmp_path: Path) -> None:
    """QEMU's hw_compat_2_3 turns both off, so the absence of both is right."""
    stream = Writer(Guest(agent=False)).stream()
    start = stream.index(_RAM)
    for number in (2, 10, 11, 12):
        stream = stream.replace(b"\x7e\0\0\0" + bytes([number]), b"")
    path = tmp_path / "file"
    path.write_bytes(stream[:8] + stream[start:])
    assert check_file(path).status is Status.PASS


def test_footers_are_missing_only_where_the_configuration_is(tmp_path: Path) -> None:
    """A machine type with a configuration has footers, and QEMU refuses its file without them."""
    stream = Writer(Guest(agent=False)).stream()
    for number in (2, 10, 11, 12):
        stream = stream.replace(b"\x7e\0\0\0" + bytes([number]), b"")
    path = tmp_path / "file"
    path.write_bytes(stream)
    assert [found.code for found in check_file(path).violations] == [Code.FOOTER_ABSENT]


def test_device_state_before_the_start_of_ram_is_out_of_order(tmp_path: Path) -> None:
    """Devices read guest RAM when they are loaded, and RAM that is loaded later is not there yet."""
    stream = Writer(Guest(agent=False)).stream()
    start, first = stream.index(_RAM), stream.index(_FIRST_DEVICE)
    end = stream.index(b"\4\0\0\0\x0b\4dev1")
    path = tmp_path / "file"
    path.write_bytes(stream[:start] + stream[first:end] + stream[start:first] + stream[end:])
    assert {found.code for found in check_file(path).violations} == {Code.SECTION_ORDER_AFTER_DEVICE}


def _run_state(text: bytes) -> bytes:
    """A stream with a guest in the run state `text`, in the form that QEMU 9.0 and later write."""
    body = struct.pack(">I", len(text) + 1) + text.ljust(32, b"\0") + b"\1\0" + bytes(66)
    section = b"\4\0\0\0\x0d\x0bglobalstate" + struct.pack(">II", 0, 1) + body + b"\x7e\0\0\0\x0d"
    field = {"name": "all", "type": "buffer", "size": len(body)}
    device = {"name": "globalstate", "instance_id": 0, "version": 1, "fields": [field]}
    return Writer(Guest(agent=False)).stream_with([(section, device)])


@pytest.mark.parametrize("text", [b"running", b"paused", b"suspended", b"guest-panicked"])
def test_run_states_of_qemu_pass(tmp_path: Path, text: bytes) -> None:
    """A guest may be saved in each of them."""
    path = tmp_path / "file"
    path.write_bytes(_run_state(text))
    assert check_file(path).status is Status.PASS


@pytest.mark.parametrize("text", [b"xunning", b"", b"Running", b"running\xff", b"r" * 32])
def test_run_states_that_qemu_refuses_fail(tmp_path: Path, text: bytes) -> None:
    """An altered name ends the load of the file, which also a reader of a pipe sees."""
    path = tmp_path / "file"
    path.write_bytes(_run_state(text))
    assert [found.code for found in check_file(path).violations] == [Code.RUN_STATE_UNKNOWN]
    piped = check_structure(read_index(PipeSource(io.BytesIO(path.read_bytes()))))
    assert [found.code for check in piped for found in check.violations] == [Code.RUN_STATE_UNKNOWN]


def _iterable(start: int, *parts: int) -> bytes:
    """An iterable section with so many bytes of content in its START and in each PART."""
    footer = b"\x7e\0\0\0\x0e"
    data = b"\1\0\0\0\x0e\3itr" + struct.pack(">II", 0, 1) + bytes(start) + footer
    return data + b"".join(b"\2\0\0\0\x0e" + bytes(length) + footer for length in parts)


@pytest.mark.parametrize("sizes", [(1,), (4, 4), (4, 12), (16, 8, 8)])
def test_iterables_without_content_are_no_state(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """Flags alone say nothing about the guest: dirty-bitmap, spapr/htab of a radix guest, an idle VFIO."""
    path = tmp_path / "file"
    path.write_bytes(
        Writer(Guest(agent=False)).stream().replace(_FIRST_DEVICE, _iterable(*sizes) + _FIRST_DEVICE)
    )
    assert check_file(path).status is Status.PASS


@pytest.mark.parametrize("sizes", [(17,), (4, 4, 13), (4, 28, 28)])
def test_iterable_state_is_not_of_t0(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """Iterable state of a background snapshot fails once for each device; in an ordinary save it is right."""
    path = tmp_path / "file"
    data = _iterable(*sizes)
    path.write_bytes(Writer(Guest(agent=False)).stream().replace(_FIRST_DEVICE, data + _FIRST_DEVICE))
    assert [found.code for found in check_file(path).violations] == [Code.SAVED_AFTER_T0_ITERABLE]
    path.write_bytes(_precopy(data))
    assert not check_file(path).violations


def test_nested_and_repeated_subsections_are_compared(tmp_path: Path) -> None:
    """A subsection inside an element of an array of structs is found at its place."""
    name = b"\5\5dev/x\0\0\0\1" + b"\0\0\0\7"
    body = (b"\0\0\0\1" + name) * 2
    section = b"\4\0\0\0\x0d\3dev" + struct.pack(">II", 0, 1) + body + b"\x7e\0\0\0\x0d"
    field = {"name": "a", "type": "uint32", "size": 4}
    inner = {"fields": [field], "subsections": [{"vmsd_name": "dev/x", "version": 1, "fields": [field]}]}
    device = {
        "name": "dev", "instance_id": 0, "version": 1,
        "fields": [{"name": "s", "type": "struct", "array_len": 2, "size": len(body) // 2, "struct": inner}],
    }  # fmt: skip
    sound = Writer(Guest(agent=False)).stream_with([(section, device)])
    path = tmp_path / "file"
    path.write_bytes(sound)
    assert check_file(path).status is Status.PASS
    at = sound.rindex(name) + 10
    path.write_bytes(sound[:at] + b"\2" + sound[at + 1 :])
    violations = check_file(path).violations
    assert [found.code for found in violations] == [Code.VMDESC_SUBSECTION_VERSION]
    assert violations[0].file_offset == at - 10
