"""What went wrong in a call to userfaultfd, and how much of it was done before."""

from __future__ import annotations

import os


class UserfaultfdError(OSError):
    """An OSError that says which call failed on which range.

    Attributes:
        call: e.g. ``UFFDIO_COPY``.
        start: address that the call was for, None where it has none.
        length: bytes from there.
        output: the ioctl's own result field, None where it has none. The kernel puts minus an errno there,
            or, with EAGAIN, the bytes that it had done when memory mappings changed under it.
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
        """Bytes that were done before the error; the caller goes on behind them."""
        return max(self.output or 0, 0)


class FeatureMissing(UserfaultfdError):
    """The kernel does not offer features that were asked for; EINVAL, as UFFDIO_API itself would say.

    Attributes:
        missing: their bits.
    """

    def __init__(self, code: int, missing: int, names: str) -> None:
        super().__init__(code, f"UFFDIO_API without {names}")
        self.missing = missing
