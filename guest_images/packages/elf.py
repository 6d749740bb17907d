"""Reads ELF files: the libraries that a program needs, the dependencies of a module."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import SetupBroken

# Names and layouts from the System V ABI, chapters 4 and 5 (elf.h).
_SHT_DYNAMIC = 6
_DT_NULL, _DT_NEEDED = 0, 1


@dataclass(frozen=True)
class _Layout:
    """Offsets and record layouts of an ELF class, in one byte order.

    Attributes:
        order: of bytes, as struct writes it.
        table: offset and layout of the section table's offset (e_shoff).
        counts: offset of the table's entry size, entry count and name section (e_shentsize and so on).
        section: layout of a section header.
        dynamic: layout of an entry of the dynamic section.
    """

    order: str
    table: tuple[int, str]
    counts: int
    section: struct.Struct
    dynamic: struct.Struct


def _layouts(order: str) -> tuple[_Layout, _Layout]:
    """Return the layouts of 32 and 64 bits."""
    return (
        _Layout(order, (0x20, f"{order}I"), 0x2E, struct.Struct(f"{order}10I"), struct.Struct(f"{order}iI")),
        _Layout(
            order, (0x28, f"{order}Q"), 0x3A, struct.Struct(f"{order}IIQQQQIIQQ"), struct.Struct(f"{order}qQ")
        ),
    )


# By e_ident[4:6]: the class, 1 for 32 bits, 2 for 64; the byte order, 1 for little-endian, 2 for big-endian.
_LAYOUTS = {
    bytes((number, data)): layout
    for data, order in ((1, "<"), (2, ">"))
    for number, layout in enumerate(_layouts(order), 1)
}


class _Sections:
    """The sections of an ELF image, each with name offset, type, offset, size and linked section."""

    def __init__(self, image: bytes) -> None:
        if image[:4] != b"\x7fELF" or image[4:6] not in _LAYOUTS:
            raise ValueError("not an ELF file")
        self._image = image
        self.layout = layout = _LAYOUTS[image[4:6]]
        try:
            offset, form = layout.table
            (table,) = struct.unpack_from(form, image, offset)
            entry_bytes, count, names = struct.unpack_from(f"{layout.order}HHH", image, layout.counts)
            rows = [
                layout.section.unpack_from(image, table + number * entry_bytes) for number in range(count)
            ]
            self._rows = [(row[0], row[1], row[4], row[5], row[6]) for row in rows]
            self._names_offset = self._rows[names][2]
        except (struct.error, IndexError) as error:
            raise ValueError("an ELF file that is cut off") from error

    def find(self, *, name: bytes | None = None, kind: int | None = None) -> tuple[bytes, int] | None:
        """Return the content and the linked section of the first section of that name or type."""
        for name_offset, row_kind, offset, size, linked in self._rows:
            if row_kind == kind or (name and self._text(self._names_offset + name_offset) == name):
                return self._image[offset : offset + size], linked
        return None

    def string(self, section: int, offset: int) -> str:
        """Return the zero-terminated string at an offset of a string table, given by its section number."""
        return self._text(self._rows[section][2] + offset).decode()

    def _text(self, start: int) -> bytes:
        return self._image[start : self._image.index(b"\0", start)]


def needed_libraries(image: bytes) -> tuple[str, ...]:
    """Return the names of the libraries that a program or library needs, as the dynamic loader reads them.

    Raises:
        ValueError: not an ELF file.
    """
    sections = _Sections(image)
    dynamic = sections.find(kind=_SHT_DYNAMIC)
    if dynamic is None:
        return ()
    content, strings = dynamic
    names = []
    for tag, value in sections.layout.dynamic.iter_unpack(content):
        if tag == _DT_NULL:
            break
        if tag == _DT_NEEDED:
            names.append(sections.string(strings, value))
    return tuple(names)


def module_info(image: bytes) -> dict[str, str]:
    """Return the `key=value` pairs of a kernel module's `.modinfo` section; of a repeated key the last value.

    Raises:
        ValueError: not an ELF file, or not a kernel module.
    """
    found = _Sections(image).find(name=b".modinfo")
    if found is None:
        raise ValueError("not a kernel module")
    pairs = (item.decode().partition("=") for item in found[0].split(b"\0") if item)
    return {key: value for key, _, value in pairs}


def find_libraries(programs: Iterable[Path], folders: Iterable[Path]) -> dict[str, Path]:
    """Return every library that programs need, directly or through another library, by its name.

    Args:
        programs: the executables.
        folders: the folders to search for libraries, in their order.

    Raises:
        SetupBroken: a library is in none of the folders.
    """
    places = tuple(folders)
    found: dict[str, Path] = {}
    waiting = list(programs)
    while waiting:
        path = waiting.pop()
        for name, library in _needed_files(path, places):
            if name not in found:
                found[name] = library
                waiting.append(library)
    return found


def _needed_files(path: Path, folders: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    try:
        names = needed_libraries(path.read_bytes())
    except ValueError as error:
        raise SetupBroken(
            f"The file '{path}' should be a program or a library and is {error}; delete the folder of its "
            "packages and run again."
        ) from error
    for name in names:
        library = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if library is None:
            raise SetupBroken(f"The packages lack the library '{name}' that '{path.name}' needs.")
        yield name, library
