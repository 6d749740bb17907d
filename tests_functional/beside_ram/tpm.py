"""Plays the driver of a TPM with a Command Response Buffer, through the monitor and the gdbstub of QEMU."""

from __future__ import annotations

import hashlib
import struct

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.machine import Machine
from harness.qemu.monitor_memory import MonitorMemory

# QEMU include/hw/acpi/tpm.h: TPM_CRB_ADDR_BASE, and the registers of locality 0.
_BASE = 0xFED40000
_LOCALITY_CONTROL, _REQUEST, _START, _BUFFER = 0x08, 0x40, 0x4C, 0x80
# TPM_CRB_ADDR_SIZE without the registers (the same file).
_BUFFER_BYTES = (1 << 12) - _BUFFER
_REQUEST_ACCESS, _COMMAND_READY, _INVOKE = 1, 1, 1
# TCG, TPM 2.0 Library, part 2: tags, commands, TPM_ALG_SHA256, TPM_RS_PW, TPM_SU_CLEAR.
_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_STARTUP, _PCR_EXTEND, _PCR_READ = 0x144, 0x182, 0x17E
_SHA256, _PASSWORD, _CLEAR = 0x000B, 0x40000009, 0
_SUCCESS = 0
_HEAD = struct.Struct(">HII")
# A register of static measurements, which only a reset clears.
_PCR = 10
_PCR_SELECT_BYTES = 3
_ANSWER_SECONDS = 30.0


def extended(value: bytes, digest: bytes) -> bytes:
    """Return what a PCR has after it had `value` and was extended by `digest`."""
    return hashlib.sha256(value + digest).digest()


class Tpm:
    """The driver; what it changes is in the process that emulates the TPM, outside of QEMU."""

    def __init__(self, machine: Machine) -> None:
        """Drive the TPM of a running machine."""
        self._machine = machine
        self._memory = MonitorMemory(machine)

    def start(self) -> None:
        """Start the TPM up, as firmware does.

        Raises:
            SetupBroken: the TPM refuses.
        """
        self._memory.write(_BASE + _LOCALITY_CONTROL, _REQUEST_ACCESS.to_bytes(4, "little"))
        self._memory.write(_BASE + _REQUEST, _COMMAND_READY.to_bytes(4, "little"))
        self._command(_NO_SESSIONS, _STARTUP, struct.pack(">H", _CLEAR))

    def extend(self, digest: bytes) -> None:
        """Extend the PCR by a digest of SHA-256.

        Raises:
            SetupBroken: the TPM refuses.
        """
        # The authorization: a session of the empty password, without nonce and attributes.
        session = struct.pack(">IHBH", _PASSWORD, 0, 0, 0)
        digests = struct.pack(">IH", 1, _SHA256) + digest
        body = struct.pack(">II", _PCR, len(session)) + session + digests
        self._command(_SESSIONS, _PCR_EXTEND, body)

    def read(self) -> bytes:
        """Return the value of the PCR.

        Raises:
            SetupBroken: the TPM refuses.
        """
        selected = (1 << _PCR).to_bytes(_PCR_SELECT_BYTES, "little")
        body = struct.pack(">IHB", 1, _SHA256, _PCR_SELECT_BYTES) + selected
        return self._command(_NO_SESSIONS, _PCR_READ, body)[-hashlib.sha256().digest_size :]

    def _command(self, tag: int, code: int, body: bytes) -> bytes:
        """Give the TPM a command; return what follows the head of its answer."""
        self._memory.write(_BASE + _BUFFER, _HEAD.pack(tag, _HEAD.size + len(body), code) + body)
        self._memory.write(_BASE + _START, _INVOKE.to_bytes(4, "little"))
        limit = Deadline(_ANSWER_SECONDS)
        while int.from_bytes(self._memory.read(_BASE + _START, 4), "little") & _INVOKE:
            if limit.expired:
                raise SetupBroken(f"The TPM does not answer the command {code:#x}.")
            self._machine.pause(limit)
        _, length, result = _HEAD.unpack(self._memory.read(_BASE + _BUFFER, _HEAD.size))
        if result != _SUCCESS:
            raise SetupBroken(f"The TPM answers the command {code:#x} with the error {result:#x}.")
        if not _HEAD.size <= length <= _BUFFER_BYTES:
            raise SetupBroken(
                f"The TPM answers the command {code:#x} by {length} bytes, which no answer has."
            )
        return self._memory.read(_BASE + _BUFFER, length)[_HEAD.size :]
