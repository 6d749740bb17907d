"""The exceptions of this package: which userfaultfd call failed, and the bytes that it had done."""

from __future__ import annotations

import os


class UserfaultfdError(OSError):
    """An OSError that says which call failed on which range.

    Attributes:
        call: e.g. ``UFFDIO_COPY``.
        start: address of the range that the call was for, None for a call without one.
        length: bytes of that range.
        output: the ioctl's own result field, None for an ioctl without one. The kernel puts a negative errno
            there or, with EAGAIN, the bytes that it had done when memory mappings changed.
    """

    def __init__(
        self,
        code: int,
        call: str,
        start: int | None = None,
        length: int | None = None,
        output: int | None = None,
    ) -> None:
        where = "" if start is None or length is None else f" of {start:#x}+{length:#x}"
        super().__init__(code, f"{call}{where}: {os.strerror(code)}")
        self.call = call
        self.start = start
        self.length = length
        self.output = output

    @property
    def done(self) -> int:
        """Bytes done before the error; a caller continues after them."""
        return max(self.output or 0, 0)


class FeatureMissing(UserfaultfdError):
    """The kernel does not offer features that were asked for; its errno is EINVAL, as that of UFFDIO_API.

    Attributes:
        missing: bits of these features.
    """

    def __init__(self, code: int, missing: int, names: str) -> None:
        super().__init__(code, f"UFFDIO_API without {names}")
        self.missing = missing
