"""Plays the driver of a virtio-9p device, and the client of the folder that it shares.

See VIRTIO 1.2, 2.7, and the messages of 9P2000.L (Linux 6.12 include/net/9p/9p.h and net/9p/client.c).
"""

from __future__ import annotations

import struct

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board
from harness.qemu.guest_memory import GuestMemory
from harness.qemu.virtio_driver import Buffer, Queue

# The number of the device is in Linux 6.12 include/uapi/linux/virtio_ids.h.
_NUMBER, _QUEUE_SIZE = 9, 16
_OPEN, _VERSION, _ATTACH, _WALK, _READ, _CLUNK = 12, 100, 104, 110, 116, 120
# The answer to a request has the next number; an error has one of its own.
_ERROR = 7
_HEAD, _NO_TAG, _TAG, _NO_FID = "<IBH", 0xFFFF, 1, 0xFFFFFFFF
_HEAD_BYTES = struct.calcsize(_HEAD)
_ROOT, _FILE = 1, 2
_MESSAGE_BYTES = TARGET_PAGE_BYTES
_ANSWER_SECONDS = 20.0


class SharedFolder:
    """The driver and the client; a restored guest's goes on with what is in guest RAM and in the device."""

    def __init__(self, board: Board, memory: GuestMemory, control: int) -> None:
        """Find the device of a running machine.

        Args:
            board: reaches the devices of a running machine.
            memory: the guest's.
            control: guest-physical address of pages for what the driver keeps in RAM.

        Raises:
            SetupBroken: the machine has none.
        """
        self._memory = memory
        self._queue = Queue(memory, control, _QUEUE_SIZE)
        self._request = self._queue.end
        self._answer = self._request + _MESSAGE_BYTES
        self._device = board.virtio(_NUMBER)

    def start(self) -> None:
        """Set the device up, and agree on the protocol; nothing is mounted by that.

        Raises:
            SetupBroken: the device does not accept that.
        """
        self._queue.lay_out(
            [[Buffer(self._request, _MESSAGE_BYTES, written=False), Buffer(self._answer, _MESSAGE_BYTES)]]
        )
        self._device.start(self._queue)
        self._ask(_VERSION, struct.pack("<I", _MESSAGE_BYTES) + _text("9P2000.L"), _NO_TAG)

    def mount(self) -> None:
        """Attach to the folder, as a mount does; raises SetupBroken where the device refuses."""
        self._ask(_ATTACH, struct.pack("<II", _ROOT, _NO_FID) + _text("") + _text("") + struct.pack("<I", 0))

    def unmount(self) -> None:
        """Let the folder go, as an unmount does; raises SetupBroken where the device refuses."""
        self._ask(_CLUNK, struct.pack("<I", _ROOT))

    def read(self, name: str, size: int) -> bytes:
        """Return the beginning of a file of the mounted folder.

        Raises:
            SetupBroken: the device refuses.
        """
        self._ask(_WALK, struct.pack("<IIH", _ROOT, _FILE, 1) + _text(name))
        self._ask(_OPEN, struct.pack("<II", _FILE, 0))
        answer = self._ask(_READ, struct.pack("<IQI", _FILE, 0, size))
        self._ask(_CLUNK, struct.pack("<I", _FILE))
        (count,) = struct.unpack_from("<I", answer)
        return answer[4 : 4 + count]

    def _ask(self, kind: int, body: bytes, tag: int = _TAG) -> bytes:
        """Return the body of the answer to a request.

        Raises:
            SetupBroken: there is none, or it is an error.
        """
        request = struct.pack(_HEAD, _HEAD_BYTES + len(body), kind, tag) + body
        self._memory.write(self._request, request)
        self._memory.write(self._answer, bytes(_MESSAGE_BYTES))
        self._queue.offer_chain(0)
        self._device.notify()
        self._queue.wait_used(Deadline(_ANSWER_SECONDS), "The answer of the guest's shared folder")
        answer = self._memory.read(self._answer, _MESSAGE_BYTES)
        size, found, _ = struct.unpack_from(_HEAD, answer)
        if found != kind + 1:
            told = (
                f"error {struct.unpack_from('<I', answer, _HEAD_BYTES)[0]}" if found == _ERROR else f"{found}"
            )
            raise SetupBroken(f"The guest's shared folder answers a request of type {kind} by {told}.")
        return answer[_HEAD_BYTES:size]


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<H", len(data)) + data
