"""Facts about a vmstate file for a person."""

from __future__ import annotations

from collections.abc import Sequence

from validators.verdict import Facts
from validators.vmstate.containers.container import Container
from validators.vmstate.stream.index import SnapshotIndex


def describe(index: SnapshotIndex, containers: Sequence[Container] = ()) -> Facts:
    """Return facts about a file for a person: what it lies in, machine, layout, sizes."""
    return {
        **({"container": "; in it ".join(one.name for one in containers)} if containers else {}),
        **{name: value for one in containers for name, value in one.facts.items()},
        "machine": index.configuration.machine,
        "layout": index.layout,
        "flow": index.flow,
        "page size": index.page_size,
        "RAMBlocks": len(index.blocks),
        "RAM bytes": sum(block.used_length for block in index.blocks),
        "data pages": index.records.get("page", 0),
        "zero pages": index.records.get("zero", 0),
        "devices": len(index.devices),
        "capabilities": ", ".join(index.configuration.capabilities),
        "stream offset": index.start,
        "stream bytes": index.end - index.start,
    }
