"""Where the installed `snapproof` begins: a signal gets one clear end before anything else is imported."""

import gc
import os
import signal
import sys

# Until the next import has brought the handler: an end by the signal, without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from snapproof.runs import interruption  # noqa: E402

# Here, not in main(): what main() imports takes up to seconds on a busy host.
interruption.end_at_once()

# What follows makes many objects that stay, and looking for garbage among them takes a tenth of the start.
gc.set_threshold(50_000)
# numpy's OpenBLAS starts a thread for each processor, which spins; nothing here uses it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main() -> int:
    """Run the command and return its exit code."""
    try:
        from snapproof.cli.command import main as run

        return run()
    except KeyboardInterrupt:
        return interruption.say_interrupted()
    finally:
        # The verdict has been said. While Python ends it resets other handlers, and a signal would kill it.
        interruption.ignore()


if __name__ == "__main__":
    sys.exit(main())
