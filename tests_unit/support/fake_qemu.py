#!/usr/bin/env python3
"""A stand-in for QEMU in unit tests of QMP and Machine: answers, misbehaves or dies as it is told.

It takes the QMP socket's number from the command line as QEMU does, and its behaviour from $FAKE_QEMU.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping

VERSION = {"qemu": {"major": 1, "minor": 2, "micro": 3}, "package": ""}
GREETING = {"QMP": {"version": VERSION, "capabilities": []}}


def requests(connection: socket.socket) -> Iterator[dict[str, object]]:
    """QMP commands as they come; nothing separates them, as in QEMU's own parser."""
    text = ""
    while data := connection.recv(65536):
        text += data.decode()
        while text:
            try:
                request, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                break
            text = text[end:].lstrip()
            yield request


def listener() -> socket.socket:
    """Listen where QEMU would for the guest's SSH, on a free port."""
    match = re.search(r"hostfwd=tcp:([0-9.]+):0-", " ".join(sys.argv))
    return socket.create_server((match[1] if match else "", 0))


def main() -> int:
    """Serve QMP until told to quit."""
    behaviour = os.environ.get("FAKE_QEMU", "")
    if behaviour == "die-at-once":
        print("fake-qemu: no such machine", file=sys.stderr)
        return 1
    if behaviour == "no-memory":
        print("fake-qemu: cannot set up guest memory 'pc.ram': Cannot allocate memory", file=sys.stderr)
        return 1
    match = re.search(r"fd=(\d+)", " ".join(sys.argv))
    if match is None:
        return 2
    connection = socket.socket(fileno=int(match[1]))
    _forwarding = [listener() for _ in range({"forward-nothing": 0, "forward-twice": 2}.get(behaviour, 1))]
    request: dict[str, object] = {}

    def send(message: Mapping[str, object]) -> None:
        if "id" in request and "event" not in message:
            message = {**message, "id": request["id"]}
        connection.sendall(json.dumps(message).encode() + b"\n")

    send(GREETING)
    for request in requests(connection):
        command = request["execute"]
        answer: object = {}
        if command == "query-status":
            answer = {"status": "running"}
        elif command == "query-version":
            answer = VERSION
        elif command == "hang":
            time.sleep(60)
        elif command == "die":
            os._exit(7)
        elif command == "refuse":
            send({"error": {"class": "GenericError", "desc": "it cannot be"}})
            continue
        elif command == "stop":
            send({"event": "STOP", "timestamp": {"seconds": 5, "microseconds": 250000}})
        send({"return": answer})
        if command == "quit":
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
