"""Finds the Debian mirror, its security archive and the Debian keyring in the machine's own apt sources."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import MachineryMissing, UsageError

KEYRINGS = (
    # The package debian-archive-keyring; the suffix became .pgp in Debian 13.
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)

# Codenames and aliases under which a machine may follow Debian; other distributions use others.
_DEBIAN_SUITES = frozenset(
    (
        *("buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid"),
        *("oldoldstable", "oldstable", "stable", "testing", "unstable"),
    )
)


@dataclass(frozen=True)
class SourceEntry:
    """One enabled source of binary packages, as apt reads it (sources.list(5)).

    Attributes:
        uris: mirrors as written, without a slash at the end.
        suites: e.g. `bookworm`, `bookworm-security`.
        components: e.g. `main`.
        signed_by: keyring paths, key fingerprints or a whole key as written; empty where there is none.
    """

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mirrors:
    """Where Debian packages come from on this machine.

    Attributes:
        archive: URI of the main archive.
        security: URI of the security archive, None where the machine has none.
        keyring: the file that apt checks signatures with.
    """

    archive: str
    security: str | None
    keyring: Path


# What apt's StringToBool reads as false.
_NO = ("no", "false", "without", "off", "disable", "0")


def parse_deb822(text: str) -> Iterator[SourceEntry]:
    """Yield the enabled binary sources of a `.sources` file."""
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            if line[0] in " \t":
                fields[key] = f"{fields.get(key, '')} {line.strip()}"
            else:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if fields.get("enabled", "yes").lower() not in _NO and "deb" in fields.get("types", "").split():
            yield SourceEntry(
                tuple(uri.rstrip("/") for uri in fields.get("uris", "").split()),
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                tuple(fields.get("signed-by", "").split()),
            )


_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<rest>\S.*)")


def parse_one_line(text: str) -> Iterator[SourceEntry]:
    """Yield the binary sources of a one-line style `.list` file."""
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if match is None:
            continue
        uri, *rest = match["rest"].split()
        if not rest:
            continue
        options = dict(
            option.partition("=")[::2] for option in shlex.split(match["options"] or "") if "=" in option
        )
        signed_by = tuple(options.get("signed-by", "").replace(",", " ").split())
        yield SourceEntry((uri.rstrip("/"),), (rest[0],), tuple(rest[1:]), signed_by)


def read_machine_sources(source_list: Path, source_parts: Path) -> tuple[SourceEntry, ...]:
    """Read what apt reads: one file, and a folder of `.list` and `.sources` files, in apt's order."""
    entries: list[SourceEntry] = []
    parts = sorted(source_parts.iterdir()) if source_parts.is_dir() else []
    for path in [source_list, *parts]:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        if path.suffix == ".sources":
            entries += parse_deb822(text)
        elif path == source_list or path.suffix == ".list":
            entries += parse_one_line(text)
    return tuple(entries)


def find_mirrors(
    entries: Iterable[SourceEntry], override: str | None = None, keyrings: Iterable[Path] = KEYRINGS
) -> Mirrors:
    """Pick Debian's own archive among the machine's sources.

    Args:
        entries: the machine's sources.
        override: a mirror to use instead of all of them; it alone is used then, without a
            security archive, since the machine's may be out of reach for the same reason.
        keyrings: where the Debian keyring is looked for when the sources name none.

    Raises:
        UsageError: `override` is not a URI that apt can fetch from.
        MachineryMissing: no Debian source, or no Debian keyring.
    """
    if override is not None and not re.match(r"[a-z+]+:/", override):
        raise UsageError(f"The mirror '{override}' is not a URI; it should start like 'https://'.")
    debian = sorted((entry for entry in entries if _is_debian(entry)), key=_foreignness)
    archive = [entry for entry in debian if _DEBIAN_SUITES.intersection(entry.suites)]
    security = [entry for entry in debian if any(_is_security(suite) for suite in entry.suites)]
    if override is None and not archive:
        raise MachineryMissing(
            "This machine's apt sources name no Debian mirror, so there is nowhere to fetch QEMU and guest "
            "kernels from; name one with --mirror."
        )
    keyring = _find_keyring(debian, keyrings)
    if override is not None:
        return Mirrors(override.rstrip("/"), None, keyring)
    return Mirrors(archive[0].uris[0], security[0].uris[0] if security else None, keyring)


def _is_security(suite: str) -> bool:
    base, _, tail = suite.partition("-security")
    return base in _DEBIAN_SUITES and base != suite and tail in ("", "/updates")


def _is_debian(entry: SourceEntry) -> bool:
    known = any(suite in _DEBIAN_SUITES or _is_security(suite) for suite in entry.suites)
    reachable = bool(entry.uris) and not entry.uris[0].startswith("cdrom:")
    return known and reachable and "main" in entry.components


def _foreignness(entry: SourceEntry) -> int:
    # Third-party repositories borrow Debian's codenames (`bookworm main`), and nearly all of them
    # name a keyring of their own; where they do not, Debian mirrors still end in /debian.
    if any("debian-archive" in key for key in entry.signed_by):
        return 0
    if entry.signed_by:
        return 3
    return 1 if re.search(r"/debian(-security)?$", entry.uris[0]) else 2


def _find_keyring(debian: Iterable[SourceEntry], keyrings: Iterable[Path]) -> Path:
    named = (Path(key) for entry in debian for key in entry.signed_by if "debian-archive" in key)
    for path in (*named, *keyrings):
        if path.is_absolute() and path.is_file():
            return path
    raise MachineryMissing(
        "The Debian archive keyring is not on this machine, so packages could not be checked; "
        "install the package 'debian-archive-keyring'."
    )
