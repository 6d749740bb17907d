"""Says how guests, hosts and QEMUs are provided: from which mirror, into which cache, with which log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from guest_images.cache import Cache, Log


@dataclass(frozen=True)
class Provisioning:
    """What every function needs that fetches, compiles or builds something.

    Attributes:
        cache: all that was fetched or made is kept there.
        log: called with a sentence before each slow step.
        mirror: a Debian mirror to use instead of the machine's own apt sources.
    """

    cache: Cache
    log: Log
    mirror: str | None = None

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Hold a lock of the cache; see `Cache.lock`."""
        return self.cache.lock(name, self.log)

    @contextmanager
    def locked_staging(self, name: str) -> Iterator[Path]:
        """Hold a lock of the cache, and give a new empty folder to work in; see `Cache.staging`."""
        with self.lock(name), self.cache.staging(name) as folder:
            yield folder
