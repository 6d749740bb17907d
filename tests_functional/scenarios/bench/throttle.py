"""Copies standard input to standard output, so many MiB a second: a program of its own, without our imports.

A steady sink and not one that sleeps now and then, since every write of a guest to a protected page waits for
the sink to take what is before it.
"""

import os
import sys
import time

_PIECE = 64 << 10
# A sink that was kept from running for so long does not catch up at full speed.
_LAG_SECONDS = 0.02


def main(mib_per_second: float) -> None:
    """Copy until the end of the input."""
    seconds = _PIECE / (mib_per_second * (1 << 20))
    due = time.monotonic()
    while True:
        piece = os.read(0, _PIECE)
        if not piece:
            return
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(1, rest) :]
        due += seconds * len(piece) / _PIECE
        now = time.monotonic()
        if due > now:
            time.sleep(due - now)
        else:
            due = max(due, now - _LAG_SECONDS)


if __name__ == "__main__":
    main(float(sys.argv[1]))
