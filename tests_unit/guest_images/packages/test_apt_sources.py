"""The Debian mirror is found in the machine's own apt sources, in both of apt's formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from guest_images.catalogue import suite
from guest_images.packages.apt_sources import (
    Mirrors,
    SourceEntry,
    find_mirrors,
    parse_deb822,
    parse_one_line,
    read_machine_sources,
)
from guest_images.packages.apt_state import apt_error, configuration, parse_print_uris, sources_list
from harness.errors import MachineryMissing, SetupBroken, UsageError

DEB822 = """\
# A comment before the stanza
Types: deb deb-src
URIs: http://mirror.example/debian/
# A comment in it
Suites: bookworm
 bookworm-updates
Components: main contrib
Signed-By: /keys/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main
"""

ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb [ arch=amd64,arm64 signed-by=/keys/debian-archive-keyring.gpg ] https://one.example/debian bookworm main
deb-src https://one.example/debian bookworm main
deb http://sec.example/debian-security bookworm-security main contrib  # trailing comment
"""


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    """Write a stand-in for the Debian keyring."""
    path = tmp_path / "debian-archive-keyring.gpg"
    path.write_bytes(b"key")
    return path


def test_deb822_folding_comments_and_enabled() -> None:
    """Folded fields are joined, comments and disabled or source-only stanzas left out."""
    assert list(parse_deb822(DEB822)) == [
        SourceEntry(
            ("http://mirror.example/debian",),
            ("bookworm", "bookworm-updates"),
            ("main", "contrib"),
            ("/keys/debian-archive-keyring.gpg",),
        )
    ]


def test_one_line_options_and_comments() -> None:
    """Options in brackets are read, comments and sources of source packages left out."""
    assert list(parse_one_line(ONE_LINE)) == [
        SourceEntry(
            ("https://one.example/debian",), ("bookworm",), ("main",), ("/keys/debian-archive-keyring.gpg",)
        ),
        SourceEntry(("http://sec.example/debian-security",), ("bookworm-security",), ("main", "contrib")),
    ]


def test_folder_and_file_are_read_as_apt_does(tmp_path: Path) -> None:
    """Files with other suffixes, such as disabled ones, are not read; a missing file is no error."""
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "debian.sources").write_text(DEB822)
    (parts / "extra.list").write_text(ONE_LINE)
    (parts / "old.list.disabled").write_text("deb http://disabled.example/debian bookworm main\n")
    entries = read_machine_sources(tmp_path / "sources.list", parts)
    assert [entry.uris[0].split("/")[2] for entry in entries] == [
        "mirror.example",
        "one.example",
        "sec.example",
    ]


def test_debian_wins_over_third_parties_that_borrow_its_suite(keyring: Path) -> None:
    """Other vendors' `bookworm main` is never taken for Debian's archive."""
    vendor = SourceEntry(("https://vendor.example/apt",), ("bookworm",), ("main",), ("/keys/vendor.gpg",))
    docker = SourceEntry(("https://docker.example/debian",), ("bookworm",), ("stable",))
    debian = SourceEntry(("http://mirror.example/debian",), ("bookworm",), ("main",))
    security = SourceEntry(("http://sec.example/debian-security",), ("bookworm-security",), ("main",))
    found = find_mirrors([vendor, docker, security, debian], keyrings=[keyring])
    assert found == Mirrors("http://mirror.example/debian", "http://sec.example/debian-security", keyring)


def test_keyring_named_by_the_source_comes_first(keyring: Path, tmp_path: Path) -> None:
    """The machine's own Signed-By wins over the usual places."""
    other = tmp_path / "other.gpg"
    other.write_bytes(b"key")
    entry = SourceEntry(("http://mirror.example/debian",), ("trixie",), ("main",), (str(keyring),))
    assert find_mirrors([entry], keyrings=[other]).keyring == keyring


def test_override_is_used_alone(keyring: Path) -> None:
    """--mirror replaces the machine's sources, which need not exist."""
    assert find_mirrors([], "http://local.example/debian/", [keyring]) == Mirrors(
        "http://local.example/debian", None, keyring
    )


@pytest.mark.parametrize("mirror", ["local.example/debian", "/srv/mirror", ""])
def test_override_must_be_a_uri(mirror: str, keyring: Path) -> None:
    """A host name or a path without a scheme is a usage error."""
    with pytest.raises(UsageError, match="not a URI"):
        find_mirrors([], mirror, [keyring])


def test_no_debian_source_says_so(keyring: Path) -> None:
    """The error names --mirror on a machine of another distribution."""
    ubuntu = SourceEntry(("http://mirror.example/ubuntu",), ("noble",), ("main",))
    with pytest.raises(MachineryMissing, match="--mirror"):
        find_mirrors([ubuntu], keyrings=[keyring])


def test_no_keyring_says_so(tmp_path: Path) -> None:
    """Nothing is fetched without a keyring, since packages could not be verified."""
    debian = SourceEntry(("http://mirror.example/debian",), ("bookworm",), ("main",))
    with pytest.raises(MachineryMissing, match="debian-archive-keyring"):
        find_mirrors([debian], keyrings=[tmp_path / "none.gpg"])


def test_private_sources_have_backports_and_security() -> None:
    """The private list has the suite, its backports and its security updates, each signed."""
    mirrors = Mirrors("http://a.example/debian", "http://s.example/debian-security", Path("/k.gpg"))
    lines = sources_list(suite("debian-13-backports"), mirrors).splitlines()
    assert [line.split("] ")[1] for line in lines] == [
        "http://a.example/debian trixie main",
        "http://a.example/debian trixie-backports main",
        "http://s.example/debian-security trixie-security main",
    ]
    assert all("signed-by=/k.gpg" in line for line in lines)


def test_print_uris_gives_name_version_and_digest() -> None:
    """Epochs are percent-encoded in apt's file names and come back decoded."""
    digest = "0" * 64
    lines = (
        f"'http://m.example/b.deb' zlib1g_1%3a1.3.1-1_amd64.deb 5 SHA256:{digest}\n"
        f"'http://m.example/a.deb' adduser_3.152_all.deb 7 SHA256:{digest}\n"
    )
    assert [(p.name, p.version, p.size) for p in parse_print_uris(lines)] == [
        ("adduser", "3.152", 7),
        ("zlib1g", "1:1.3.1-1", 5),
    ]


def test_print_uris_without_sha256_is_refused() -> None:
    """A package that only has a weak digest is not taken."""
    with pytest.raises(SetupBroken, match="SHA256"):
        parse_print_uris("'http://m.example/b.deb' b_1_all.deb 5 MD5Sum:00\n")


@pytest.mark.parametrize(
    ("output", "kind", "sentence"),
    [
        ("E: Failed to fetch x  Could not resolve 'm.example'", MachineryMissing, "cannot be reached"),
        ("E: The repository 'x' does not have a Release file.", MachineryMissing, "does not have debian-13"),
        ("E: Failed to fetch x.deb  404  Not Found", MachineryMissing, "no longer has"),
        ("E: Unable to locate package qemu-system-x86", MachineryMissing, "lacks a package"),
        ("E: The repository 'x' is not signed.", SetupBroken, "signature"),
        ("W: GPG error: x: NO_PUBKEY 0123", SetupBroken, "signature"),
        ("E: You don't have enough free space in x", SetupBroken, "disk is full"),
        ("E: write (28: No space left on device)", SetupBroken, "disk is full"),
        ("E: something else", SetupBroken, "exit code 100"),
    ],
)
def test_apt_failures_are_one_sentence(output: str, kind: type[Exception], sentence: str) -> None:
    """The error's class says whose fault a failure of apt is; apt's output is the evidence."""
    error = apt_error(suite("debian-13"), "resolve qemu", ["apt-get"], 100, output)
    assert type(error) is kind or issubclass(type(error), kind)
    assert sentence in error.sentence
    assert error.sentence.endswith(".")
    assert output in error.evidence.log_tail


def test_private_configuration_leaves_the_machine_alone(tmp_path: Path) -> None:
    """Lists, cache, status and logs are all private; the machine's hooks and pinning are off."""
    text = configuration(tmp_path, "arm64")
    for key in (
        "State",
        "State::lists",
        "State::status",
        "Cache",
        "Cache::archives",
        "Log",
        "Etc::sourcelist",
    ):
        assert f'Dir::{key} "{tmp_path}' in text
    assert "#clear APT::Update::Post-Invoke-Success;" in text
    assert 'Dir::Etc::preferencesparts "/dev/null";' in text
    assert "Proxy" not in text
