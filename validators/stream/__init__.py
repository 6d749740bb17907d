"""The vmstate stream reader: turns untrusted bytes into a SnapshotIndex."""

from validators.stream.format import StreamError
from validators.stream.index import Anomaly, Block, Section, SnapshotIndex
from validators.stream.reader import read_index
from validators.stream.source import FileSource, PipeSource, Source, open_source

__all__ = [
    "Anomaly", "Block", "FileSource", "PipeSource", "Section", "SnapshotIndex", "Source", "StreamError",
    "open_source", "read_index",
]  # fmt: skip
