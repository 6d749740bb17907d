"""Contract: messages are found in any cut of the bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.attach.monitor import MessageSplitter, MonitorUnusable, SocketMonitor

_MESSAGES = [{"QMP": {}}, {"event": "STOP", "data": {"text": "} {"}}, {"return": [1, {"a": "\u00e9"}]}]


def test_any_cut() -> None:
    """Bytes one by one, with and without new lines, give the same messages."""
    for indent, end in ((None, "\r\n"), (4, "\n"), (None, "")):
        text = "".join(json.dumps(one, indent=indent) + end for one in _MESSAGES).encode()
        splitter = MessageSplitter()
        found = [message for at in range(len(text)) for message in splitter.feed(text[at : at + 1])]
        assert found == _MESSAGES
        assert MessageSplitter().feed(text) == _MESSAGES


def test_space_that_carries_a_descriptor() -> None:
    """A lone space is no message."""
    splitter = MessageSplitter()
    assert splitter.feed(b" ") == []
    assert splitter.feed(b'{"execute": "getfd"}') == [{"execute": "getfd"}]


def test_what_is_no_socket(tmp_path: Path) -> None:
    """A folder and a file are told apart from a socket that nobody serves."""
    file = tmp_path / "file"
    file.touch()
    for path in (tmp_path, file):
        with pytest.raises(MonitorUnusable, match="is no socket"):
            SocketMonitor(path, 1.0)
    with pytest.raises(MonitorUnusable, match="cannot be connected to"):
        SocketMonitor(tmp_path / "missing", 1.0)
