"""A QMP server that plays a VM in a thread, with the settings and the run state that a snapshot changes."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from harness.attach.monitor import MessageSplitter
from harness.qemu.migration import BACKGROUND_SNAPSHOT

_BLOCK_COMMANDS = (
    *("nbd-server-start", "nbd-server-stop", "blockdev-add", "blockdev-del", "blockdev-backup", "job-cancel"),
    *("block-export-add", "block-export-del"),
)


class FakeVm:
    """A VM behind a QMP socket; what it was told is in `commands`.

    Attributes:
        state: its run state.
        capabilities: its migration capabilities.
        parameters: its migration parameters.
        migration: the status in `query-migrate`.
        refused: commands that it refuses.
        resumes: whether it resumes a stopped guest when it begins to save, as QEMU 7.2 does.
        fails: whether a save fails at once and leaves the guest stopped.
        version: its major and minor number.
        slow: seconds after which it answers a command.
        descriptors: descriptors that it was given, by name.
        sets: likewise those in descriptor sets.
        nodes: names of its block nodes; the first is that of a disk.
        jobs: names of its jobs.
        exports: what it exports.
        serves: whether its NBD server runs.
        schema: its QAPI schema.
    """

    def __init__(self, path: Path, *, pretty: bool = False) -> None:
        self.state, self.migration = "running", "none"
        self.capabilities = {BACKGROUND_SNAPSHOT: False, "xbzrle": True}
        self.parameters: dict[str, Any] = {"max-bandwidth": 134217728, "tls-creds": ""}
        self.refused: set[str] = set()
        self.resumes = self.fails = False
        self.version = (10, 0)
        self.slow: dict[str, float] = {}
        self.descriptors: dict[str, int] = {}
        self.sets: dict[str, int] = {}
        self.nodes, self.jobs, self.exports = ["disk"], list[str](), list[str]()
        self.serves = False
        self.schema: list[dict[str, Any]] = []
        self.commands: list[str] = []
        self._pretty = pretty
        self._client: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the server."""
        self._listener.close()
        for descriptor in (*self.descriptors.values(), *self.sets.values()):
            os.close(descriptor)

    def hang_up(self) -> None:
        """Close the connection, as a QEMU that ends does."""
        self._listener.close()
        if self._client is not None:
            self._client.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._client = client
            with client:
                self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        version = {"qemu": {"major": 10, "minor": 0, "micro": 0}, "package": ""}
        self._send(client, {"QMP": {"version": version, "capabilities": ["oob"]}})
        messages = MessageSplitter()
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(client, 1 << 16, 4)
            except OSError:
                return
            if not data:
                return
            for message in messages.feed(data):
                name, arguments = message["execute"], message.get("arguments", {})
                self.commands.append(name)
                if name in ("getfd", "add-fd"):
                    given = self.descriptors if name == "getfd" else self.sets
                    given[arguments.get("fdname") or arguments["opaque"]] = descriptors.pop()
                time.sleep(self.slow.get(name, 0.0))
                own = {"id": message["id"]} if "id" in message else {}
                unknown = name == "closefd" and arguments["fdname"] not in self.descriptors
                if name in self.refused or unknown:
                    self._send(client, {"error": {"class": "GenericError", "desc": "No."}, **own})
                    continue
                event = self._do(name, arguments)
                answer = self._answer(name)
                if event:
                    self._send(client, {"event": event, "timestamp": {"seconds": 1, "microseconds": 0}})
                self._send(client, {"return": answer, **own})

    def _do(self, name: str, arguments: dict[str, Any]) -> str:
        if name in _BLOCK_COMMANDS:
            self._do_block(name, arguments)
        elif name in ("stop", "cont"):
            self.state = "paused" if name == "stop" else "running"
            return "STOP" if name == "stop" else "RESUME"
        elif name == "migrate":
            self.migration = "failed" if self.fails else "active"
            if self.fails:
                self.state = "paused"
            elif self.resumes:
                self.state = "running"
                return "RESUME"
        elif name == "migrate-set-capabilities":
            self.capabilities |= {one["capability"]: one["state"] for one in arguments["capabilities"]}
        elif name == "migrate-set-parameters":
            self.parameters |= arguments
        elif name == "closefd":
            os.close(self.descriptors.pop(arguments["fdname"]))
        elif name == "remove-fd":
            numbers = {number: opaque for opaque, number in self.sets.items()}
            os.close(self.sets.pop(numbers[arguments["fd"]]))
        return ""

    def _do_block(self, name: str, arguments: dict[str, Any]) -> None:
        match name:
            case "nbd-server-start":
                self.serves = True
                os.close(self.descriptors.pop(arguments["addr"]["data"]["str"]))
            case "nbd-server-stop":
                self.serves = False
            case "blockdev-add":
                self.nodes.append(arguments["node-name"])
            case "blockdev-del":
                self.nodes.remove(arguments["node-name"])
            case "blockdev-backup":
                self.jobs.append(arguments["job-id"])
            case "job-cancel":
                self.jobs.remove(arguments["id"])
            case "block-export-add":
                self.exports.append(arguments["id"])
            case "block-export-del":
                self.exports.remove(arguments["id"])

    def _answer(self, name: str) -> Any:
        match name:
            case "query-status":
                return {"status": self.state}
            case "query-migrate":
                # The second question finds it ended.
                status = self.migration
                self.migration = "completed" if status == "active" else status
                return {"status": status}
            case "query-migrate-capabilities":
                return [{"capability": one, "state": state} for one, state in self.capabilities.items()]
            case "query-migrate-parameters":
                return self.parameters
            case "query-version":
                return {"qemu": {"major": self.version[0], "minor": self.version[1], "micro": 0}}
            case "query-yank":
                return []
            case "add-fd":
                return {"fdset-id": 7, "fd": list(self.sets.values())[-1]}
            case "query-fdsets":
                fds = [{"fd": number, "opaque": opaque} for opaque, number in self.sets.items()]
                return [{"fdset-id": 7, "fds": [*fds, {"fd": 99}]}]
            case "query-block":
                medium = {
                    "node-name": "disk",
                    "file": "/disk",
                    "ro": False,
                    "image": {"virtual-size": 1 << 20},
                }
                return [{"device": ""}, {"inserted": medium}, {"inserted": {**medium, "ro": True}}]
            case "query-named-block-nodes":
                return [{"node-name": one} for one in self.nodes]
            case "query-jobs" | "query-block-exports":
                return [{"id": one} for one in (self.jobs if name == "query-jobs" else self.exports)]
            case "query-qmp-schema":
                return self.schema
            case "query-kvm":
                return {"enabled": False}
            case "query-memory-size-summary":
                return {"base-memory": 128 << 20}
            case "query-cpus-fast":
                return [{}]
        return {}

    def _send(self, client: socket.socket, message: dict[str, Any]) -> None:
        text = json.dumps(message, indent=4 if self._pretty else None)
        client.sendall(text.encode() + b"\r\n")
