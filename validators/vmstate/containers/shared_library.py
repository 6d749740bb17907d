"""Decompresses zstd and lz4 with the shared libraries of the system, called by ctypes.

The functions are of the stable interfaces of zstd.h (1.4.0 to 1.5.7) and lz4frame.h (1.8.0 to 1.10.0).
docs/decisions/021-containers.md says why no package is installed for them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from harness.errors import MachineryMissing

_WINDOW_LOG_MAX_PARAMETER = 100  # ZSTD_d_windowLogMax
_WINDOW_LOG_MAX = 27  # 128 MiB, as `zstd -d` without --long.
_LZ4F_VERSION = 100


# ZSTD_error_frameParameter_windowTooLarge, in the way that zstd returns errors.
_WINDOW_TOO_LARGE = ctypes.c_size_t(-16).value


class DataError(Exception):
    """Compressed data that cannot be decompressed; the text says why."""


class MemoryLimit(Exception):
    """Compressed data that needs more memory than we give it."""


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer."""

    _fields_ = (("start", ctypes.c_void_p), ("size", ctypes.c_size_t), ("position", ctypes.c_size_t))


@cache
def _load(name: str, what: str, program: str) -> Any:
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise MachineryMissing(
            f"The library {name} that reads {what} data is not on this machine. Install it, or decompress "
            f"the file with '{program} -d' and name the result."
        ) from error


def _declared(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments
    return function


class _Frame:
    """One frame that is decompressed piece by piece, with the interface of bz2.BZ2Decompressor.

    Attributes:
        eof: whether the end of the frame was reached.
        needs_input: whether more compressed data is needed for more output.
        unused_data: what follows the end of the frame.
    """

    _context: Any = None
    _free: Callable[[Any], object] | None = None

    def __init__(self, free: Callable[[Any], object], context: Any) -> None:
        self.eof = False
        self.needs_input = True
        self.unused_data = b""
        self._left = b""
        self._context = context
        self._free = free

    def __del__(self) -> None:
        # There is none if the library is missing.
        if self._free is not None:
            self._free(self._context)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return up to `max_length` bytes; raises DataError."""
        data = self._left + data
        out = ctypes.create_string_buffer(max_length)
        used, made, ended = self._step(data, out)
        self._left = data[used:]
        self.eof = ended
        if ended:
            self.unused_data, self._left = self._left, b""
        # With the output full there may be more of it without further input.
        self.needs_input = not ended and not self._left and made < max_length
        return out.raw[:made] if made < max_length else out.raw

    def _step(self, data: bytes, out: Any) -> tuple[int, int, bool]:
        raise NotImplementedError


class ZstdFrame(_Frame):
    """One zstd frame, with a window of 128 MiB at most."""

    def __init__(self) -> None:
        library = _load("libzstd.so.1", "zstd", "zstd")
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        self._is_error = _declared(library, "ZSTD_isError", ctypes.c_uint, size)
        self._error_name = _declared(library, "ZSTD_getErrorName", ctypes.c_char_p, size)
        self._decompress = _declared(
            library, "ZSTD_decompressStream", size, pointer, ctypes.POINTER(_Buffer), ctypes.POINTER(_Buffer)
        )
        context = _declared(library, "ZSTD_createDStream", pointer)()
        if not context:
            raise MemoryError
        super().__init__(_declared(library, "ZSTD_freeDStream", size, pointer), context)
        set_parameter = _declared(
            library, "ZSTD_DCtx_setParameter", size, pointer, ctypes.c_int, ctypes.c_int
        )
        set_parameter(context, _WINDOW_LOG_MAX_PARAMETER, _WINDOW_LOG_MAX)

    def _step(self, data: bytes, out: Any) -> tuple[int, int, bool]:
        source = ctypes.c_char_p(data)
        taken = _Buffer(ctypes.cast(source, ctypes.c_void_p), len(data), 0)
        given = _Buffer(ctypes.cast(out, ctypes.c_void_p), len(out), 0)
        left = self._decompress(self._context, ctypes.byref(given), ctypes.byref(taken))
        if left == _WINDOW_TOO_LARGE:
            raise MemoryLimit
        if self._is_error(left):
            raise DataError(self._error_name(left).decode(errors="replace"))
        return taken.position, given.position, left == 0


class Lz4Frame(_Frame):
    """One lz4 frame; its blocks have 4 MiB at most."""

    def __init__(self) -> None:
        library = _load("liblz4.so.1", "lz4", "lz4")
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        self._is_error = _declared(library, "LZ4F_isError", ctypes.c_uint, size)
        self._error_name = _declared(library, "LZ4F_getErrorName", ctypes.c_char_p, size)
        self._decompress = _declared(
            library, "LZ4F_decompress", size, pointer, pointer, ctypes.POINTER(size), ctypes.c_char_p,
            ctypes.POINTER(size), pointer,
        )  # fmt: skip
        make = _declared(
            library, "LZ4F_createDecompressionContext", size, ctypes.POINTER(pointer), ctypes.c_uint
        )
        context = pointer()
        if self._is_error(make(ctypes.byref(context), _LZ4F_VERSION)):
            raise MemoryError
        super().__init__(_declared(library, "LZ4F_freeDecompressionContext", size, pointer), context)

    def _step(self, data: bytes, out: Any) -> tuple[int, int, bool]:
        taken, given = ctypes.c_size_t(len(data)), ctypes.c_size_t(len(out))
        left = self._decompress(
            self._context, ctypes.cast(out, ctypes.c_void_p), ctypes.byref(given), data, ctypes.byref(taken),
            None,
        )  # fmt: skip
        if self._is_error(left):
            raise DataError(self._error_name(left).decode(errors="replace"))
        return taken.value, given.value, left == 0
