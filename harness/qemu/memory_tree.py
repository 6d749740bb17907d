"""Find the RAM of a running QEMU with its properties.

Nothing here goes by the name of a RAMBlock or a device: what a block is, QEMU's memory tree and object tree
and the mappings of its process say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.errors import SetupBroken
from harness.linux.host_mapping import HostMapping, host_mappings
from harness.qemu.machine import Machine, known_pid
from harness.qemu.monitor_tables import Place, parse_block_lines, parse_ranges, region_of

# QEMU 10.0 qom/qom-hmp-cmds.c print_qom_composition(): two spaces for each level, "/name (type)".
_OBJECT = re.compile(r"^(?P<indent> *)/(?P<name>.*) \((?P<type>[^()]+)\)\s*$", re.MULTILINE)
# QEMU monitor/hmp-cmds-target.c hmp_gpa2hva().
_FOUND = re.compile(r"is 0x([0-9a-f]+)")
_REGION_TYPES = ("memory-region", "qemu:memory-region")
_ARRAY = re.compile(r"\[\d+\]$")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")

RAM, ROM, ROM_DEVICE, RAM_DEVICE, NV_RAM = "ram", "rom", "romd", "ramd", "nv-ram"
"""What the memory tree calls a range of RAM (QEMU 10.0 system/memory.c, memory_region_type())."""

MMIO = "i/o"
"""What it calls all else, and a ROM device that takes commands at the moment."""

UNMAPPED, UNMAPPED_READ_ONLY, UNMAPPED_WRITABLE = "unmapped", "unmapped, ro", "unmapped, rw"
"""Access to a block that is nowhere in an address space; QEMU before 8.2 says no more than the first."""

ELSEWHERE = ", not for CPUs"
"""Behind the type of RAM that is in other address spaces only: of secure memory, of tags, of a device."""

_TYPES = (ROM_DEVICE, RAM_DEVICE, NV_RAM, RAM, ROM)


@dataclass(frozen=True)
class RamKind:
    """What a piece of RAM is, which decides who can write to it and whether a snapshot protects it.

    Attributes:
        access: one of the types of the memory tree; of several the one that takes most to write;
            or one of `UNMAPPED` and its like.
        owner: `board`, `device` or `backend`.
        host: the kind of the host's mapping, as `HostMapping.kind`; "unknown" where its address is.
        resizeable: whether it is smaller than it may become.
        saved: whether it has a name in the stream.
    """

    access: str
    owner: str
    host: str
    resizeable: bool = False
    saved: bool = True

    def __str__(self) -> str:
        """Return the properties in words."""
        further = [
            word for word, there in (("resizeable", self.resizeable), ("not saved", not self.saved)) if there
        ]
        return ", ".join([self.access, f"of {self.owner}", self.host, *further])


@dataclass(frozen=True)
class FoundRam:
    """A piece of RAM of a running QEMU.

    Attributes:
        idstr: its name in the stream, "" for RAM that is in none.
        region: name of its memory region.
        used_bytes: its length.
        host_address: in QEMU's own address space, 0 where QEMU does not say.
        kind: what it is.
        places: where it is in the guest's address space.
    """

    idstr: str
    region: str
    used_bytes: int
    host_address: int
    kind: RamKind
    places: tuple[Place, ...] = ()

    @property
    def name(self) -> str:
        """Return its name for people."""
        return self.idstr or self.region

    def address_of(self, offset: int, size: int) -> int | None:
        """Return the guest-physical address at which a range in it can be written, None for none."""
        for place in self.places:
            inside = place.offset <= offset and offset + size <= place.offset + place.size
            if inside and place.in_cpu_space and place.type in (self.kind.access, MMIO):
                return place.address + offset - place.offset
        return None


def find_ram(machine: Machine) -> tuple[FoundRam, ...]:
    """Return all RAM of a machine: each RAMBlock of a stream, and RAM in the memory tree that is in none.

    Raises:
        MachineryMissing: QEMU's process id is not known.
        SetupBroken: its mappings cannot be read, or `info ramblock` has a form that is not known.
    """
    blocks, tree = machine.hmp("info ramblock"), machine.hmp("info mtree -f")
    # By itself the command prints /machine.
    objects = machine.hmp("info qom-tree") + machine.hmp("info qom-tree /objects")
    mappings = host_mappings(known_pid(machine))

    def host_address(gpa: int) -> int:
        answer = _FOUND.search(machine.hmp(f"gpa2hva {gpa:#x}"))
        return int(answer[1], 16) if answer else 0

    found = parse_ram(RamTexts(blocks, tree, objects), mappings, host_address)
    if not found:
        raise SetupBroken("QEMU's 'info ramblock' lists no RAMBlock in a form that snapproof knows.")
    return found


def main_ram(found: Sequence[FoundRam]) -> FoundRam:
    """Return the main RAM, which is the largest, so that QEMU saves it first."""
    return max(found, key=lambda ram: ram.used_bytes)


def bytes_behind_main(found: Sequence[FoundRam]) -> int:
    """Return how many bytes of RAM QEMU saves behind the main RAM, which it saves first."""
    main = main_ram(found)
    return sum(ram.used_bytes for ram in found if ram is not main and ram.kind.saved)


def region_addresses(machine: Machine, name: str) -> tuple[int, ...]:
    """Return where the ranges of memory regions of a name begin for the guest's CPUs, in ascending order."""
    places = parse_ranges(machine.hmp("info mtree -f")).get(name, [])
    return tuple(sorted({place.address for place in places if place.in_cpu_space}))


@dataclass(frozen=True)
class RamTexts:
    """What the human monitor says: `info ramblock`, `info mtree -f`, and `info qom-tree` of all objects."""

    blocks: str
    tree: str
    objects: str


def parse_ram(
    texts: RamTexts, mappings: Sequence[HostMapping], host_address: Callable[[int], int]
) -> tuple[FoundRam, ...]:
    """Return all RAM that the texts tell of.

    Args:
        texts: QEMU's.
        mappings: those of its process.
        host_address: returns where a guest-physical address lies in QEMU, 0 where it does not say.
    """
    ranges, owners = parse_ranges(texts.tree), _owners(texts.objects)
    lines = list(parse_block_lines(texts.blocks))
    named = {region_of(line.idstr) for line in lines if line.idstr}
    nameless = [name for name, here in ranges.items() if name not in named and here[0].type != MMIO]
    found = []
    for line in lines:
        used, address = line.used_bytes, line.host_address
        region = region_of(line.idstr) if line.idstr else _taken(nameless, ranges, used)
        places = _own_places(ranges.get(region, []), address, host_address)
        if not address and (mapped := [place for place in places if place.in_cpu_space]):
            address = max(0, host_address(mapped[0].address) - mapped[0].offset)
        kind = RamKind(
            _access(places, line.access),
            owners.get(region, "board"),
            _host_kind(mappings, address),
            resizeable=used < line.total_bytes,
            saved=bool(line.idstr),
        )
        found.append(FoundRam(line.idstr, region, used, address, kind, tuple(places)))
    return tuple(found)


def is_protected(ram: FoundRam, mappings: Sequence[HostMapping]) -> bool | None:
    """Return whether userfaultfd gets the write faults of RAM, None where its address is not known."""
    mapping = _mapping_of(mappings, ram.host_address)
    return mapping.write_protected if mapping else None


def _taken(names: list[str], ranges: Mapping[str, list[Place]], size: int) -> str:
    """Take the name of a region of that size from a list; return "" where it has none."""
    for name in names:
        if max(place.offset + place.size for place in ranges[name]) == size:
            names.remove(name)
            return name
    return ""


def _own_places(places: Sequence[Place], address: int, host_address: Callable[[int], int]) -> list[Place]:
    """Return those of places that are of the block at an address: two regions can have one name."""
    if not address or len({(place.address, place.offset) for place in places if place.in_cpu_space}) < 2:
        return list(places)
    return [
        place
        for place in places
        if not place.in_cpu_space or host_address(place.address) in (0, address + place.offset)
    ]


def _access(places: Sequence[Place], said: str) -> str:
    types = {place.type for place in places}
    by_cpus = {place.type for place in places if place.in_cpu_space}
    elsewhere = "" if by_cpus or not places else ELSEWHERE
    for name in _TYPES:
        if name in types:
            return f"{name}{elsewhere}"
    if MMIO in types:
        return f"{ROM_DEVICE}{elsewhere}"
    return {"ro": UNMAPPED_READ_ONLY, "rw": UNMAPPED_WRITABLE}.get(said, UNMAPPED)


def _owners(objects: str) -> dict[str, str]:
    """Return the owner of each memory region, by the region's name."""
    found: dict[str, str] = {}
    path: list[tuple[str, str]] = []
    for line in _OBJECT.finditer(objects):
        depth = len(line["indent"]) // 2
        name = _ESCAPED.sub(lambda hexadecimal: chr(int(hexadecimal[1], 16)), line["name"])
        del path[depth:]
        if line["type"] in _REGION_TYPES:
            found.setdefault(_ARRAY.sub("", name), _owner(path))
        path.append((name, line["type"]))
    return found


def _owner(path: Sequence[tuple[str, str]]) -> str:
    """Return the kind of owner that a region below these objects, each with name and type, has."""
    if path and path[0][0] == "objects":
        return "backend"
    # The machine itself, and the container of what nobody has taken.
    return "device" if len(path) > 1 and path[-1][1] != "container" else "board"


def _host_kind(mappings: Sequence[HostMapping], address: int) -> str:
    mapping = _mapping_of(mappings, address)
    return mapping.kind if mapping else "unknown"


def _mapping_of(mappings: Sequence[HostMapping], address: int) -> HostMapping | None:
    return next((mapping for mapping in mappings if mapping.start <= address < mapping.end), None)
