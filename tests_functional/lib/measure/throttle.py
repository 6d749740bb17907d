"""Program that copies standard input to standard output at a steady rate; it imports nothing of this project.

The rate must be steady, because a guest's write to a protected page waits until the sink has taken all that
was sent before it. A sink that sleeps now and then would add its own delays.
"""

import os
import sys
import time

_PIECE = 64 << 10
# If the program could not run for longer than this, it does not catch up at full speed.
_LAG_SECONDS = 0.02


def main(mib_per_second: float) -> None:
    """Copy at this rate until the end of the input."""
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
