"""Gives QEMU an open file to migrate into or out of, in the way that this QEMU takes files by descriptor."""

from __future__ import annotations

from harness.qemu.machine import Machine
from harness.qemu.qapi_schema import QapiSchema, read_schema

FILE = "file"
"""Transport of QEMU 8.2 and later that migrates into and out of files."""


def hand_over(machine: Machine, descriptor: int, name: str) -> str:
    """Give QEMU a copy of the descriptor of a file and return the migration URI that means it.

    A QEMU with the transport `file:` takes it as a descriptor set. `fd:` with a file is deprecated since QEMU
    9.1, and refused by 11.1 (migration/fd.c), which then keeps the descriptor (docs/findings.md, F57). An
    older QEMU takes it by `getfd`.

    Args:
        machine: QEMU.
        descriptor: stays open here.
        name: of the descriptor, or of the one in the set, in QEMU.

    Raises:
        CommandRefused: QEMU does not take it.
    """
    if FILE in transports(read_schema(machine)):
        return f"{FILE}:/dev/fdset/{machine.qmp.add_descriptor(descriptor, name)}"
    machine.qmp.pass_descriptor(descriptor, name)
    return f"fd:{name}"


def transports(schema: QapiSchema) -> tuple[str, ...]:
    """Return the transports in the addresses that `migrate` takes, none for a QEMU up to 8.1.

    QEMU 8.2 qapi/migration.json: `channels` is a list of MigrationChannel, whose `addr` is a
    MigrationAddress, whose `transport` is the enum MigrationAddressType.
    """
    try:
        channel = schema.element_type("migrate", "channels")
        address = schema.member_type(channel, "addr")
        kind = schema.entry(schema.member_type(address, "transport"))
    except KeyError:
        return ()
    return tuple(kind.get("values") or [member["name"] for member in kind["members"]])
