"""The cache folder: finds it, locks parts of it between runs, and publishes files that are always whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from harness.errors import Evidence, SetupBroken
from harness.qemu.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE

Log = Callable[[str], None]
"""Receives one line of progress at a time."""

LOCK_SECONDS = 1800.0
"""Limit for waiting for another run that works on the same part of the cache: a fetch over a slow line."""

_FOLDER = "snapproof" + ("" if ARCHITECTURES[0] == DEFAULT_ARCHITECTURE else f"-{DEFAULT_ARCHITECTURE.name}")


def default_cache_folder() -> Path:
    """Return $SNAPPROOF_CACHE, else the folder `snapproof` in the user's XDG cache.

    Machines of another architecture than the first one have their own, since a home folder may be shared by
    machines of both, and the cache has programs and libraries that run on one of them.
    """
    chosen = os.environ.get("SNAPPROOF_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / _FOLDER


@contextlib.contextmanager
def disk_errors_as_sentence(folder: Path) -> Iterator[None]:
    """Turn an OSError from writing below a folder into an error with a sentence.

    Raises:
        SetupBroken: the disk is full, or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        where = Evidence(paths=(folder,))
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SetupBroken(
                f"The disk with the cache folder '{folder}' is full; free some space, or name a folder on "
                "another disk with --cache.",
                where,
            ) from error
        raise SetupBroken(
            f"The cache folder '{folder}' cannot be used: {error}; name another with --cache.", where
        ) from error


@dataclass(frozen=True)
class Cache:
    """A cache folder, by its absolute path.

    Everything in it was put there by a rename, so no file in it is half-written. Any of it may be deleted
    while no run uses it.
    """

    folder: Path

    def path(self, *parts: str) -> Path:
        """Return a path below the folder; make nothing."""
        return self.folder.joinpath(*parts)

    @contextlib.contextmanager
    def lock(self, name: str, log: Log) -> Iterator[None]:
        """Hold a lock against other runs, and delete the unfinished work of a run that died holding it.

        The kernel releases the lock of a process that dies, so nobody has to remove one by hand.

        Raises:
            SetupBroken: another run kept the lock for LOCK_SECONDS, or the folder cannot be written.
        """
        path = self.path("locks", f"{name}.lock")
        with disk_errors_as_sentence(self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._acquire(handle, path, name, log)
            for leftover in self.path("tmp").glob(f"{name}@*"):
                remove_tree(leftover)
            yield
        finally:
            os.close(handle)

    def _acquire(self, handle: int, path: Path, name: str, log: Log) -> None:
        if _try_lock(handle):
            return
        log(f"Waiting for another run that is working on '{name}'.")
        deadline = Deadline(LOCK_SECONDS)
        deadline.wait_for(lambda: _try_lock(handle) or deadline.expired, f"The lock '{path}'", interval=0.1)
        if deadline.expired:
            raise SetupBroken(
                f"Another run has held the lock '{path}' for over {LOCK_SECONDS:.0f} s; run again "
                "when it has ended.",
                Evidence(paths=(path,)),
            )

    @contextlib.contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """Give a new empty folder to work in, and delete it afterwards; hold the lock of the same name.

        The folder is on the cache's file system, so that a rename can publish what was made in it.

        Raises:
            SetupBroken: there was an OSError in the block.
        """
        with disk_errors_as_sentence(self.folder):
            self.path("tmp").mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{name}@", dir=self.path("tmp")))
            try:
                yield folder
            finally:
                remove_tree(folder)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_tree(path: Path) -> None:
    """Delete a file or folder; raise nothing where a part cannot be deleted, since it does no harm."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def publish_folder(staged: Path, final: Path) -> None:
    """Move a finished folder to its place; a folder there has the same content, by its name, and stays."""
    with disk_errors_as_sentence(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
        if not final.is_dir():
            staged.rename(final)


def publish_file(final: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file so that readers see all of the old or all of the new content, never a part."""
    with disk_errors_as_sentence(final.parent):
        final.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{final.name}.", dir=final.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), mode)
            Path(name).rename(final)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def to_json(value: Any) -> bytes:
    """Return a value as JSON with sorted keys, as every manifest is written."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def read_json(path: Path) -> Any:
    """Return the content of a manifest, None where there is no such file.

    Raises:
        SetupBroken: the file is not JSON; `publish_file` never leaves such a file behind.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SetupBroken(f"The cache file '{path}' is damaged; delete it and run again.") from error
