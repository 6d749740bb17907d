"""A private apt for one suite: own sources, lists and empty dpkg status; no root, machine untouched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from guest_images.apt_sources import Mirrors, find_mirrors, read_machine_sources
from guest_images.cache import Cache, Log, disk_errors_as_sentence, publish_file
from guest_images.catalogue import Suite
from harness.errors import Evidence, MachineryMissing, SetupBroken

APT_SECONDS = 1800.0
"""Limit for one apt command: 50 MB over a slow line."""

INDEX_MAX_AGE_SECONDS = 3600.0
"""An index younger than this is used as it is, so that a QEMU and a guest of one suite fetch it once."""


@dataclass(frozen=True)
class Package:
    """One package version that apt chose.

    Attributes:
        name: binary package name.
        version: Debian version with its epoch.
        sha256: of the `.deb` file, from the signed index.
        size: of the `.deb` file, in bytes.
    """

    name: str
    version: str
    sha256: str
    size: int


class VersionGone(MachineryMissing):
    """The mirror no longer has a version that the index names."""


class AptState:
    """apt-get with its state below `<cache>/apt/<suite>`; hold the lock `apt-<suite>` while using it."""

    def __init__(
        self, cache: Cache, suite: Suite, log: Log, mirror: str | None = None, *, security: bool = True
    ) -> None:
        self._suite = suite
        self._log = log
        self._folder = cache.path("apt", suite.name)
        self._stamp = self._folder / "updated"
        for tool in ("apt-get", "apt-config", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise MachineryMissing(
                    f"The program '{tool}' is not on this machine; QEMU builds and guest kernels are fetched "
                    "as Debian packages, so it needs the packages 'apt' and 'dpkg'."
                )
        mirrors = machine_mirrors(mirror)
        self._write_configuration(mirrors if security else replace(mirrors, security=None))

    def _write_configuration(self, mirrors: Mirrors) -> None:
        sources = sources_list(self._suite, mirrors)
        with disk_errors_as_sentence(self._folder):
            for part in ("lists/partial", "archives/partial"):
                (self._folder / part).mkdir(parents=True, exist_ok=True)
        if not (self._folder / "status").exists():
            publish_file(self._folder / "status", b"")
        path = self._folder / "sources.list"
        if not path.exists() or path.read_text() != sources:
            self._stamp.unlink(missing_ok=True)
            publish_file(path, sources.encode())
        conf = configuration(self._folder, self._suite.architecture)
        publish_file(self._folder / "apt.conf", conf.encode())

    def update(self, *, force: bool = False) -> None:
        """Fetch the package index unless the one at hand is young.

        Raises:
            MachineryMissing: no network, or the mirror does not carry the suite.
            SetupBroken: the signature does not check, or apt failed in another way.
        """
        if not force and self._stamp.exists():
            age = time.time() - self._stamp.stat().st_mtime
            if 0 <= age < INDEX_MAX_AGE_SECONDS:
                return
        self._log(f"Fetching the package index of {self._suite.name}.")
        # Without error-on=any apt-get calls an update that fetched nothing a success.
        self._run(["apt-get", "-o", "APT::Update::Error-Mode=any", "update"], "fetch the package index")
        publish_file(self._stamp, b"")

    def resolve(self, packages: Sequence[str]) -> tuple[Package, ...]:
        """Return `packages` and all that they depend on, newest in the suite, sorted by name."""
        target = ["-t", self._suite.backports] if self._suite.backports else []
        install = ["install", "-qq", "--no-install-recommends", "--print-uris", *packages]
        output = self._run(["apt-get", *target, *install], f"resolve {' '.join(packages)}")
        return parse_print_uris(output)

    def download(self, packages: Sequence[Package], folder: Path) -> None:
        """Fetch the `.deb` files into `folder`; apt checks each against the signed index."""
        names = [f"{package.name}={package.version}" for package in packages]
        self._run(["apt-get", "download", "-q", *names], "download packages", cwd=folder)

    def _run(self, command: list[str], what: str, cwd: Path | None = None) -> str:
        command[1:1] = ["-c", str(self._folder / "apt.conf")]
        # _failure reads messages, so they must be in English.
        environment = os.environ | {"LC_ALL": "C"}
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=APT_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise SetupBroken(
                f"apt did not {what} for {self._suite.name} within {APT_SECONDS:.0f} s.", Evidence(command)
            ) from error
        if done.returncode != 0:
            raise failure(self._suite, what, command, done.returncode, done.stdout + done.stderr)
        return done.stdout


def machine_mirrors(mirror: str | None = None) -> Mirrors:
    """Find the Debian mirrors of this machine; `mirror` overrides its apt sources.

    Raises:
        UsageError: `mirror` is no URI. MachineryMissing: no mirror or no keyring.
    """
    # `/f` and `/d` make apt-config resolve Dir, so that unusual layouts are found as apt finds them.
    shell = ["apt-config", "shell", "LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d"]
    output = subprocess.run(shell, capture_output=True, text=True, check=False).stdout
    found = dict(re.findall(r"^(LIST|PARTS)='(.*)'$", output, re.MULTILINE))
    source_list = Path(found.get("LIST", "/etc/apt/sources.list"))
    source_parts = Path(found.get("PARTS", "/etc/apt/sources.list.d"))
    return find_mirrors(read_machine_sources(source_list, source_parts), mirror)


def sources_list(suite: Suite, mirrors: Mirrors) -> str:
    """The private sources: the suite, its security updates, its backports.

    `targets` keeps machine-wide additions such as file lists and AppStream data out of the fetch.
    """
    options = f"[arch={suite.architecture} signed-by={mirrors.keyring} targets=Packages]"
    lines = [f"deb {options} {mirrors.archive} {suite.codename} main"]
    if suite.backports:
        lines.append(f"deb {options} {mirrors.archive} {suite.backports} main")
    if mirrors.security:
        lines.append(f"deb {options} {mirrors.security} {suite.codename}-security main")
    return "\n".join(lines) + "\n"


def configuration(folder: Path, architecture: str) -> str:
    """The private apt.conf, read after the machine's own, whose proxy and certificate settings it keeps.

    Cleared are the machine's hooks (they poke at services), foreign architectures and pinning. The
    sandbox user is off because `_apt` may not enter a cache folder in a home folder. SHA256 is forced
    since `--print-uris` otherwise prints MD5. Compressed lists and no second cache of them save 60 MB
    for each suite.
    """
    return f"""\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
#clear APT::Default-Release;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "root";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::ForceHash "SHA256";
Acquire::GzipIndexes "true";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "{folder}";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::State::extended_states "{folder}/extended_states";
Dir::Cache "{folder}";
Dir::Cache::archives "{folder}/archives";
Dir::Cache::pkgcache "{folder}/pkgcache.bin";
Dir::Cache::srcpkgcache "";
Dir::Log "{folder}";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"""


_URI_LINE = re.compile(r"'[^']+' (?P<file>\S+)\.deb (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})")


def parse_print_uris(output: str) -> tuple[Package, ...]:
    """Read `apt-get install --print-uris`: one package a line, with the name apt would store it under.

    Raises:
        SetupBroken: a line is not of that form.
    """
    packages = []
    for line in output.splitlines():
        match = _URI_LINE.fullmatch(line.strip())
        if match is None:
            raise SetupBroken(f"apt printed a line that is not a package with a SHA256: '{line}'.")
        name, version, _ = match["file"].split("_")
        packages.append(Package(name, unquote(version), match["sha256"], int(match["size"])))
    return tuple(sorted(packages, key=lambda package: package.name))


def failure(
    suite: Suite, what: str, command: Sequence[str], exit_code: int, output: str
) -> MachineryMissing | SetupBroken:
    """Explain a failed apt command in one sentence, by whose fault it is."""
    tail = "\n".join(output.splitlines()[-20:])
    evidence = Evidence(command, exit_code, tail)

    def said(*patterns: str) -> bool:
        return any(re.search(pattern, output) for pattern in patterns)

    if said("No space left on device", "enough free space"):
        return SetupBroken(f"The disk is full: apt could not {what} for {suite.name}.", evidence)
    if said("NO_PUBKEY", "is not signed", "signatures were invalid", "signature verification"):
        return SetupBroken(f"The mirror's signature on {suite.name} does not check out.", evidence)
    if said("does not have a Release file", r"InRelease\s+404", r"Release\s+404"):
        return MachineryMissing(f"The mirror does not carry {suite.name} ('{suite.codename}').", evidence)
    if said(r"404\s+Not Found"):
        return VersionGone(f"The mirror no longer has what its index of {suite.name} names.", evidence)
    if said("File has unexpected size", "Hash Sum mismatch"):
        return VersionGone(f"The mirror's index of {suite.name} is just being replaced.", evidence)
    if said("Unable to locate package", "has no installation candidate", "unmet dependencies"):
        return MachineryMissing(f"apt could not {what}: {suite.name} does not have it.", evidence)
    if said("Could not resolve", "Could not connect", "Unable to connect", "Temporary failure", "timed out"):
        return MachineryMissing(
            f"The mirror cannot be reached, so apt could not {what} for {suite.name}.", evidence
        )
    return SetupBroken(f"apt could not {what} for {suite.name} (exit code {exit_code}).", evidence)
