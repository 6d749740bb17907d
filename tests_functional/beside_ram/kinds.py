"""Lists the state beside RAM that a guest changes by itself: where it is, and which values it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from guest_images.catalogue import BARE_GUESTS, BareSpec
from harness.qemu.architectures import Architecture
from harness.qemu.configuration import MIB

PLACES = 64
"""How many places the guest stores to in each round."""

ROUNDS_AFTER = 7
"""How many rounds after one another have other values at each place; those of a longer save begin anew."""

# The last 4 MiB of RAM, which a bare guest's agent leaves alone (guest_images/agent/bare/memory.c).
_FREE_BYTES = 4 * MIB


@dataclass(frozen=True)
class StateKind:
    """State that a machine keeps beside RAM, and that an instruction or a hypercall of the guest changes.

    Attributes:
        reason: why it is tested.
        words: what one piece of it is called.
        values: how many values other than 0 one place has, at least 2 * ROUNDS_AFTER + 1.
        shift: by how many bits a value is moved.
        by_number: whether a place is the number of an entry, and not an address.
        arguments: further ones of QEMU.
    """

    reason: str
    words: str
    values: int
    shift: int = 0
    by_number: bool = False
    arguments: tuple[str, ...] = ()

    def places(self, ram_start: int, ram_bytes: int) -> tuple[int, ...]:
        """Return the places that the guest stores to.

        Args:
            ram_start: guest-physical address of RAM.
            ram_bytes: size of RAM.
        """
        if self.by_number:
            return tuple(range(PLACES))
        first, apart = ram_start + ram_bytes - _FREE_BYTES, _FREE_BYTES // PLACES
        return tuple(first + number * apart for number in range(PLACES))

    def value(self, number: int, index: int) -> int:
        """Return what a round stores at the place of an index: another value than the 14 rounds about it."""
        return (1 + (number + index) % self.values) << self.shift


STATE_KINDS: Mapping[str, StateKind] = {
    "storage-keys": StateKind(
        "s390x has a key of each page, outside of RAM; it is saved with the devices, in one piece",
        "storage keys",
        # The access-control bits and fetch protection, without the value 0.
        values=31,
        shift=3,
    ),
    "hash-table": StateKind(
        "pseries has its hash page table in QEMU, in an iterable handler, which nothing protects (F19)",
        "entries of the hash page table",
        values=1 << 20,
        by_number=True,
    ),
    "allocation-tags": StateKind(
        "aarch64's Memory Tagging Extension has tags in a RAMBlock of their own, which QEMU's code writes",
        "allocation tags",
        values=15,
        # QEMU 7.2 hw/arm/virt.c: off by default.
        arguments=("-machine", "mte=on"),
    ),
}
"""The kinds by their name."""


def guests_with(state: str) -> tuple[BareSpec, ...]:
    """Return one bare guest of each architecture whose agent stores and loads a kind of state."""
    first: dict[Architecture, BareSpec] = {}
    for guest in BARE_GUESTS:
        if guest.architecture.bare and guest.architecture.bare.beside_ram == state:
            first.setdefault(guest.architecture, guest)
    return tuple(first.values())
