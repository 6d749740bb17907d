"""Contract: what a stream demands of the QEMU that restores it is told, and nothing that it does not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from snapproof.cli.command import main
from tests_unit.support import tiny_stream as tiny
from tests_unit.support.tiny_stream import (
    PAGE,
    capabilities,
    configuration,
    device,
    ram_part,
    ram_start,
    zero,
)
from validators.vmstate.needs import Needs, needs_of
from validators.vmstate.stream import open_source, read_index

_MIB = 1 << 20
_MACHINE = b"pc-i440fx-10.0"
_SECTIONS = ("cpu_common", "kvmclock", "serial", "0000:00:01.0/PIIX3", "0000:00:05.1/virtio-net", "fw_cfg")


def _file(path: Path, blocks: tuple[tuple[str, int], ...], sections: tuple[str, ...] = _SECTIONS) -> Path:
    """A stream whose RAM is all zero pages."""
    parts = [tiny.HEADER + configuration(capabilities("x-colo"), machine=_MACHINE)]
    parts.append(ram_start(*((idstr, size, b"") for idstr, size in blocks)))
    records = b"".join(
        zero(page, "" if page else idstr) for idstr, size in blocks for page in range(size // PAGE)
    )
    parts += [ram_part(records), *(device(10 + at, name) for at, name in enumerate(sections)), tiny.end()]
    path.write_bytes(b"".join(parts))
    return path


def _needs(path: Path) -> Needs:
    with open_source(path) as source:
        return needs_of(read_index(source))


def _options(needs: Needs) -> list[str]:
    return [need.option for need in needs.options]


def test_a_machine_with_its_own_ram(tmp_path: Path) -> None:
    """Machine, memory, vCPUs, accelerator and devices; the machine's own devices are none."""
    needs = _needs(_file(tmp_path / "file", (("pc.ram", _MIB), ("pc.bios", 64 << 10), ("a/e.rom", PAGE))))
    assert _options(needs) == [
        "-machine pc-i440fx-10.0",
        "-m 1M",
        "-bios FILE",
        "-smp 1",
        "-accel kvm",
        "-nodefaults",
        "-serial null",
        "-device virtio-net-pci,addr=05.1",
    ]
    assert [need.sure for need in needs.options] == [*[True] * 7, False]
    assert "65536 bytes" in needs.options[2].reason
    assert [need.option for need in needs.capabilities] == ["x-colo"]
    assert needs.blocks == (("pc.bios", 64 << 10), ("a/e.rom", PAGE))


def test_what_is_not_there_is_not_demanded(tmp_path: Path) -> None:
    """No accelerator, no serial port, no firmware of another length, two vCPUs."""
    blocks = (("pc.ram", 3 * PAGE), ("pc.bios", 256 << 10))
    needs = _needs(_file(tmp_path / "file", blocks, ("cpu_common", "cpu_common")))
    assert _options(needs) == ["-machine pc-i440fx-10.0", "-m 12288B", "-smp 2", "-nodefaults"]


def test_memory_of_a_backend(tmp_path: Path) -> None:
    """Its RAMBlock has the backend's id."""
    options = _options(_needs(_file(tmp_path / "file", (("mem0", _MIB),), ())))
    assert options[:3] == [
        f"-object memory-backend-ram,id=mem0,size={_MIB}",
        "-machine pc-i440fx-10.0,memory-backend=mem0",
        "-m 1M",
    ]


def test_memory_of_two_backends_is_a_guess(tmp_path: Path) -> None:
    """A NUMA node and a memory device look alike."""
    needs = _needs(_file(tmp_path / "file", (("a", _MIB), ("b", PAGE)), ()))
    assert [need.sure for need in needs.options[:2]] == [False, False]
    assert _options(needs)[1] == f"-object memory-backend-ram,id=b,size={PAGE}"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints what is demanded and what no stream says; of half a file it is not known."""
    path = _file(tmp_path / "file", (("pc.ram", _MIB),))
    assert main(["info", "--needs", str(path)]) == 0
    out = capsys.readouterr().out
    assert "  -m 1M  # RAMBlocks pc.ram\n" in out
    assert "-device virtio-net-pci,addr=05.1  # section '0000:00:05.1/virtio-net' (a guess" in out
    assert "A stream does not say:\n  the CPU model" in out
    path.write_bytes(path.read_bytes()[:-40])
    assert main(["info", "--needs", str(path)]) == 2
    assert "is not all known" in capsys.readouterr().err
    for other in (tmp_path, "-"):
        assert main(["info", "--needs", str(other)]) == 2
