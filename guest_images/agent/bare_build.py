"""Compiles the agent without an operating system: an ELF for `-kernel`, and its firmware where it has one."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

from guest_images.agent.build import (
    SOURCES,
    Compiler,
    digest_of,
    find_compiler,
    run_compiler,
    source_digest,
)
from guest_images.cache import Cache, publish_folder
from guest_images.packages.unpacked import InputRecord
from guest_images.provisioning import Provisioning
from harness.errors import SetupBroken, UsageError
from harness.qemu.architectures import Architecture, BareTarget

# No C library and no support by the host: what the compiler would add to a program by itself is left out.
# -s: the names of gcc's temporary files are symbols.
_FLAGS = (
    *("-O2", "-Wall", "-Wextra", "-Werror", "-falign-functions=32", "-static", "-s"),
    *("-ffreestanding", "-nostdlib", "-fno-pic", "-fno-pie", "-fno-stack-protector"),
    *("-fno-asynchronous-unwind-tables", "-fno-builtin"),
    *("-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,max-page-size=4096"),
)
# zig turns checks of undefined behaviour on, which call functions that there are not.
_ZIG_FLAGS = ("-fno-sanitize=all",)

_PROGRAM_FILE, _FIRMWARE_FILE = "agent.elf", "firmware.bin"
_SCRIPT = "link.ld"
_ENTRIES = {_PROGRAM_FILE: "agent_entry", _FIRMWARE_FILE: "firmware_begin"}


@dataclass(frozen=True)
class _ElfClass:
    """Where an ELF file has the table of what it loads.

    Attributes:
        table: offset and format of e_phoff.
        entries: offset of e_phentsize and e_phnum.
        entry: the first fields of an entry up to the size in the file.
        size: which of these fields is that size; the first is the type.
        offset: which of them is the offset in the file.
    """

    table: tuple[int, str]
    entries: int
    entry: struct.Struct
    size: int
    offset: int


# System V ABI, chapters 4 and 5, by EI_CLASS, the byte behind the magic number.
_ELF_CLASSES = {
    1: _ElfClass((0x1C, "<I"), 0x2A, struct.Struct("<IIIII"), size=4, offset=1),
    2: _ElfClass((0x20, "<Q"), 0x36, struct.Struct("<IIQQQQ"), size=5, offset=2),
}
_EI_CLASS = 4
_PT_LOAD = 1


@dataclass(frozen=True)
class BareBuild:
    """The bare agent of one architecture, compiled or to be compiled.

    Attributes:
        folder: the folder of the cache with its files; exists once `compile_bare` has returned.
        target: its architecture's part in it.
        records: its sources and compiler, for a manifest.
        compiler: the compiler to use.
        sources: the folder that includes are relative to.
        own: the architecture's folder of sources.
        shared: the folder that it has in common with others, `own` where there is none.
    """

    folder: Path
    target: BareTarget
    records: tuple[InputRecord, ...]
    compiler: Compiler
    sources: Path
    own: Path
    shared: Path

    @property
    def program(self) -> Path:
        """The ELF for `-kernel`."""
        return self.folder / _PROGRAM_FILE

    @property
    def firmware(self) -> Path | None:
        """The image for `-bios`."""
        return self.folder / _FIRMWARE_FILE if self.target.firmware else None

    def digest(self) -> str:
        """Return the SHA256 in hex over its files, once they exist."""
        files = [path for path in (self.program, self.firmware) if path]
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def plan_bare(cache: Cache, architecture: Architecture, sources: Path = SOURCES) -> BareBuild:
    """Plan a build of the bare agent. Nothing is compiled.

    Args:
        cache: where builds are kept.
        architecture: the guest's processor.
        sources: the folder with the agent's folders `core` and `bare`.

    Raises:
        UsageError: there is no bare agent for that processor.
        MachineryMissing: no compiler. SetupBroken: no sources, or a compiler that does not answer.
    """
    target = architecture.bare
    if target is None:
        raise UsageError(f"There is no agent without an operating system for {architecture.name} yet.")
    own = sources / "bare" / architecture.name
    shared = sources / "bare" / target.shared if target.shared else own
    folders = dict.fromkeys((sources / "core", sources / "bare", shared, own))
    files = [path for folder in folders for path in sorted(folder.glob("*.*")) if path.is_file()]
    if not any(own.glob("*.S")):
        raise SetupBroken(f"The bare agent's sources are not in '{own}'.")
    compiler = find_compiler(architecture, target.compiler_target, target.native)
    source = source_digest(files, sources)
    digest = digest_of(source, architecture.name, compiler.version, *_FLAGS, *_ZIG_FLAGS, *target.flags)
    records = (
        InputRecord("bare agent source", source[:12], source),
        InputRecord("bare agent compiler", compiler.version, digest),
    )
    folder = cache.path("agent", f"bare-{digest[:12]}")
    return BareBuild(folder, target, records, compiler, sources, own, shared)


def compile_bare(build: BareBuild, provisioning: Provisioning) -> BareBuild:
    """Compile the agent if sources, compiler or flags have changed.

    Raises:
        SetupBroken: the sources do not compile, or the compiler does not end.
    """
    if not build.folder.exists():
        with provisioning.locked_staging("agent") as staging:
            if not build.folder.exists():
                provisioning.log("Compiling the bare agent.")
                staged = staging / "bare"
                staged.mkdir()
                own = build.own / _SCRIPT
                script = own if own.exists() else build.shared / _SCRIPT
                _link(build, staged / _PROGRAM_FILE, script, _program_sources(build))
                if build.target.firmware:
                    image = staging / "firmware.elf"
                    _link(build, image, build.shared / "firmware.ld", [build.shared / "firmware.S"])
                    (staged / _FIRMWARE_FILE).write_bytes(loaded_bytes(image.read_bytes()))
                publish_folder(staged, build.folder)
    return build


def _program_sources(build: BareBuild) -> list[Path]:
    folders = dict.fromkeys((build.sources / "core", build.sources / "bare", build.shared, build.own))
    files = [path for folder in folders for path in sorted(folder.glob("*.[cS]"))]
    return [path for path in files if path.name != "firmware.S"]


def _link(build: BareBuild, output: Path, script: Path, sources: list[Path]) -> None:
    zig = _ZIG_FLAGS if build.compiler.version.startswith("zig") else ()
    entry = _ENTRIES[_FIRMWARE_FILE if script.stem == "firmware" else _PROGRAM_FILE]
    command = [*build.compiler.command, *_FLAGS, *zig, *build.target.flags, "-I", str(build.sources)]
    command += ["-T", str(script), f"-Wl,-e,{entry}", "-o", str(output), *map(str, sources)]
    run_compiler("bare agent", command)


def loaded_bytes(image: bytes) -> bytes:
    """Return what the first segment of a little-endian ELF file loads, without zeros behind it.

    Raises:
        SetupBroken: it has none.
    """
    elf = _ELF_CLASSES.get(image[_EI_CLASS])
    if elf:
        offset, form = elf.table
        (table,) = struct.unpack_from(form, image, offset)
        entry_bytes, count = struct.unpack_from("<HH", image, elf.entries)
        for number in range(count):
            entry = elf.entry.unpack_from(image, table + number * entry_bytes)
            if entry[0] == _PT_LOAD:
                return image[entry[elf.offset] :][: entry[elf.size]]
    raise SetupBroken("The firmware that was linked has nothing to load.")
