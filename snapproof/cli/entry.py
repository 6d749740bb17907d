"""Where the installed `snapproof` begins: a signal gets one clear end before anything else is imported."""

import signal
import sys

# Until the next import has brought the handler: an end by the signal, without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from snapproof.runs import interruption  # noqa: E402

# Here, not in main(): what main() imports takes up to seconds on a busy host.
interruption.end_at_once()


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
