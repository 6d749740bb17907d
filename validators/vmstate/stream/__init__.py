"""The vmstate stream reader: turns untrusted bytes into a SnapshotIndex."""

from validators.vmstate.stream.format import StreamError
from validators.vmstate.stream.index import Anomaly, Block, Section, SnapshotIndex
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import FileSource, PipeSource, Source, open_source

__all__ = [
    "Anomaly", "Block", "FileSource", "PipeSource", "Section", "SnapshotIndex", "Source", "StreamError",
    "open_source", "read_index",
]  # fmt: skip
