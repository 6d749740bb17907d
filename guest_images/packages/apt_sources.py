"""Finds Debian's mirror, security archive and keyring in the machine's own apt sources."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import MachineryMissing, UsageError

KEYRINGS = (
    # Files of the package debian-archive-keyring; the suffix became .pgp in Debian 13.
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)

# Codenames and aliases of Debian's releases; those of other distributions differ.
_DEBIAN_SUITES = frozenset(
    (
        *("buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid"),
        *("oldoldstable", "oldstable", "stable", "testing", "unstable"),
    )
)


@dataclass(frozen=True)
class SourceEntry:
    """An enabled source of binary packages, as in sources.list(5).

    Attributes:
        uris: the mirrors, without a slash at the end.
        suites: e.g. `bookworm`, `bookworm-security`.
        components: e.g. `main`.
        signed_by: words of the option Signed-By: keyring paths, key fingerprints or a whole key.
    """

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mirrors:
    """The mirrors that this machine takes Debian packages from.

    Attributes:
        archive: URI of the main archive.
        security: URI of the security archive, None where the machine's sources have none.
        keyring: file with the keys that apt checks signatures with.
    """

    archive: str
    security: str | None
    keyring: Path


# Words that apt's StringToBool() reads as false.
_NO = ("no", "false", "without", "off", "disable", "0")


def parse_deb822(text: str) -> Iterator[SourceEntry]:
    """Yield the enabled sources of binary packages in the text of a `.sources` file."""
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
    """Yield the sources of binary packages in the text of a `.list` file, which has one a line."""
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
    """Return the machine's sources in apt's order.

    Args:
        source_list: the file `sources.list`.
        source_parts: the folder of `.list` and `.sources` files; others in it are not read.
    """
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
    """Return the mirrors of Debian's own archive among the machine's sources.

    Args:
        entries: the machine's sources.
        override: a mirror to use instead of theirs. It is used without a security archive, since the
            machine's may be out of reach for the same reason as its mirror.
        keyrings: files to try where the sources name no keyring of Debian.

    Raises:
        UsageError: `override` is not a URI.
        MachineryMissing: there is no Debian mirror, or no Debian keyring.
    """
    if override is not None and not re.match(r"[a-z+]+:/", override):
        raise UsageError(
            f"The mirror '{override}' of --mirror is not a URI; it should begin like 'https://'."
        )
    debian = sorted((entry for entry in entries if _may_be_debian(entry)), key=_third_party_rank)
    archive = [entry for entry in debian if _DEBIAN_SUITES.intersection(entry.suites)]
    security = [entry for entry in debian if any(_is_security(suite) for suite in entry.suites)]
    if override is None and not archive:
        raise MachineryMissing(
            "This machine's apt sources have no Debian mirror, from which QEMU builds and guest kernels are "
            "fetched; name one with --mirror."
        )
    keyring = _find_keyring(debian, keyrings)
    if override is not None:
        return Mirrors(override.rstrip("/"), None, keyring)
    return Mirrors(archive[0].uris[0], security[0].uris[0] if security else None, keyring)


def _is_security(suite: str) -> bool:
    base, _, tail = suite.partition("-security")
    return base in _DEBIAN_SUITES and base != suite and tail in ("", "/updates")


def _may_be_debian(entry: SourceEntry) -> bool:
    known = any(suite in _DEBIAN_SUITES or _is_security(suite) for suite in entry.suites)
    reachable = bool(entry.uris) and not entry.uris[0].startswith("cdrom:")
    return known and reachable and "main" in entry.components


def _third_party_rank(entry: SourceEntry) -> int:
    """Return 0 for a source that is surely Debian's, up to 3 for one that is hardly so."""
    # Third-party repositories use Debian's codenames too (`bookworm main`). Nearly all of them name a keyring
    # of their own; of the others, Debian mirrors end in /debian.
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
        "This machine lacks Debian's keyring, which packages are checked with; install the package "
        "'debian-archive-keyring'."
    )
