"""Runs apt-get for one suite with sources, lists and dpkg status of our own, without root."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from guest_images.cache import disk_errors_as_sentence, publish_file
from guest_images.catalogue import Suite
from guest_images.packages.apt_sources import Mirrors, find_mirrors, read_machine_sources
from guest_images.programs import run_program
from guest_images.provisioning import Provisioning
from harness.errors import Evidence, MachineryMissing, SetupBroken

APT_SECONDS = 1800.0
"""Limit for one apt command: a download of 50 MB over a slow line."""

INDEX_MAX_AGE_SECONDS = 3600.0
"""Age up to which a package index is used again, so that a QEMU and a guest of one suite fetch it once."""

_CONFIG_SECONDS = 60.0


@dataclass(frozen=True)
class Package:
    """A version of a binary package that apt has chosen.

    Attributes:
        name: the package's name.
        version: Debian version with its epoch.
        sha256: SHA256 in hex of the `.deb` file, from the signed index.
        size: size of the `.deb` file in bytes.
    """

    name: str
    version: str
    sha256: str
    size: int


class VersionGone(MachineryMissing):
    """The mirror no longer has a package version that its index names."""


class AptState:
    """apt-get with its state in `<cache>/apt/<suite>`; the caller holds the lock `apt-<suite>`."""

    def __init__(self, suite: Suite, provisioning: Provisioning, *, security: bool = True) -> None:
        self._suite = suite
        self._log = provisioning.log
        self._folder = provisioning.cache.path("apt", suite.name)
        self._stamp = self._folder / "updated"
        for tool in ("apt-get", "apt-cache", "apt-config", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise MachineryMissing(
                    f"This machine lacks the program '{tool}', which fetches QEMU builds and guest kernels; "
                    "install the packages 'apt' and 'dpkg'."
                )
        mirrors = find_machine_mirrors(provisioning.mirror)
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
        conf = configuration(self._folder, self._suite.architecture.debian)
        publish_file(self._folder / "apt.conf", conf.encode())

    def update(self, *, force: bool = False) -> None:
        """Fetch the package index, unless the last one is younger than INDEX_MAX_AGE_SECONDS.

        Args:
            force: fetch it in any case.

        Raises:
            MachineryMissing: there is no network, or the mirror does not have the suite.
            SetupBroken: the signature is bad, or apt failed in another way.
        """
        if not force and self._stamp.exists():
            age = time.time() - self._stamp.stat().st_mtime
            if 0 <= age < INDEX_MAX_AGE_SECONDS:
                return
        self._log(f"Fetching the package index of {self._suite.name}.")
        # Without this option apt-get ends with 0 after an update that fetched nothing.
        self._run(["apt-get", "-o", "APT::Update::Error-Mode=any", "update"], "fetch the package index")
        publish_file(self._stamp, b"")

    def resolve(self, packages: Sequence[str]) -> tuple[Package, ...]:
        """Return packages and their dependencies in the suite's newest versions, sorted by name.

        Raises:
            MachineryMissing: the suite lacks a package. SetupBroken: apt failed in another way.
        """
        target = ["-t", self._suite.backports] if self._suite.backports else []
        install = ["install", "-qq", "--no-install-recommends", "--print-uris", *packages]
        output = self._run(["apt-get", *target, *install], f"resolve {' '.join(packages)}")
        return parse_print_uris(output)

    def download(self, packages: Sequence[Package], folder: Path) -> None:
        """Fetch the `.deb` files of packages into a folder; apt checks each against the signed index.

        Raises:
            VersionGone: the mirror no longer has a file. MachineryMissing, SetupBroken: as `update`.
        """
        names = [f"{package.name}={package.version}" for package in packages]
        self._run(["apt-get", "download", "-q", *names], "download packages", cwd=folder)

    def names(self, prefix: str) -> list[str]:
        """Return the names of all packages of the suite that begin so, sorted."""
        return sorted(self._run(["apt-cache", "pkgnames", prefix], "list packages").split())

    def versions(self, packages: Sequence[str]) -> str:
        """Return a line ``package | version | source`` for each version of packages; none for no packages."""
        return self._run(["apt-cache", "madison", *packages], "list versions") if packages else ""

    def _run(self, command: list[str], task: str, cwd: Path | None = None) -> str:
        command[1:1] = ["-c", str(self._folder / "apt.conf")]
        done = run_program("apt", f"{task} for {self._suite.name}", command, APT_SECONDS, cwd=cwd)
        if done.returncode != 0:
            raise apt_error(self._suite, task, command, done.returncode, done.stdout + done.stderr)
        return done.stdout


def find_machine_mirrors(mirror: str | None = None) -> Mirrors:
    """Return the Debian mirrors of this machine.

    Args:
        mirror: a mirror to use instead of those in its apt sources.

    Raises:
        UsageError: `mirror` is not a URI. MachineryMissing: there is no mirror, or no keyring.
    """
    # `/f` and `/d` make apt-config resolve Dir, so that paths which the machine has changed are found.
    shell = ["apt-config", "shell", "LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d"]
    output = run_program("apt-config", "print its paths", shell, _CONFIG_SECONDS).stdout
    found = dict(re.findall(r"^(LIST|PARTS)='(.*)'$", output, re.MULTILINE))
    source_list = Path(found.get("LIST", "/etc/apt/sources.list"))
    source_parts = Path(found.get("PARTS", "/etc/apt/sources.list.d"))
    return find_mirrors(read_machine_sources(source_list, source_parts), mirror)


def sources_list(suite: Suite, mirrors: Mirrors) -> str:
    """Return the text of a `sources.list` with a suite, its backports and its security updates.

    The option `targets` leaves out what the machine fetches in addition, e.g. file lists and AppStream data.
    """
    options = f"[arch={suite.architecture.debian} signed-by={mirrors.keyring} targets=Packages]"
    lines = [f"deb {options} {mirrors.archive} {suite.codename} main"]
    if suite.backports:
        lines.append(f"deb {options} {mirrors.archive} {suite.backports} main")
    if mirrors.security:
        lines.append(f"deb {options} {mirrors.security} {suite.codename}-security main")
    return "\n".join(lines) + "\n"


def configuration(folder: Path, architecture: str) -> str:
    """Return the text of an apt.conf that keeps apt's state in a folder.

    apt reads it after the machine's own, whose settings of proxies and certificates stay in force. It clears
    the machine's hooks, which talk to services, its foreign architectures and its pinning. The sandbox user
    is root, since `_apt` may not enter a cache folder in a home folder. SHA256 is forced, since
    `--print-uris` prints MD5 otherwise. Compressed lists without a second cache of them save 60 MB a suite.

    Args:
        folder: the folder of the state.
        architecture: Debian's name of the packages' architecture.
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
    """Return the packages that `apt-get install --print-uris` lists, sorted by name.

    Name and version are in the file name under which apt stores the package.

    Raises:
        SetupBroken: a line is not a package with a SHA256.
    """
    packages = []
    for line in output.splitlines():
        match = _URI_LINE.fullmatch(line.strip())
        if match is None:
            raise SetupBroken(f"apt-get printed a line that is not a package with a SHA256: '{line}'.")
        name, version, _ = match["file"].split("_")
        packages.append(Package(name, unquote(version), match["sha256"], int(match["size"])))
    return tuple(sorted(packages, key=lambda package: package.name))


@dataclass(frozen=True)
class _Cause:
    """A reason for which apt fails.

    Attributes:
        patterns: regular expressions, of which one matches apt's output.
        error: the class that says whose fault it is.
        sentence: the error's sentence, with places for `task`, `suite` and `codename`.
    """

    patterns: tuple[str, ...]
    error: type[MachineryMissing | SetupBroken]
    sentence: str


# The first that matches counts.
_CAUSES = (
    _Cause(
        ("No space left on device", "enough free space"),
        SetupBroken,
        "The disk is full: apt could not {task} for {suite}; free some space and run again.",
    ),
    _Cause(
        ("NO_PUBKEY", "is not signed", "signatures were invalid", "signature verification"),
        SetupBroken,
        "The mirror's signature of {suite} is not valid; update the package 'debian-archive-keyring', or "
        "name another mirror with --mirror.",
    ),
    _Cause(
        ("does not have a Release file", r"InRelease\s+404", r"Release\s+404"),
        MachineryMissing,
        "The mirror does not have {suite} ('{codename}'); name another with --mirror.",
    ),
    _Cause(
        (r"404\s+Not Found",),
        VersionGone,
        "The mirror no longer has a package that its index of {suite} names; run again later, or name "
        "another mirror with --mirror.",
    ),
    _Cause(
        ("File has unexpected size", "Hash Sum mismatch"),
        VersionGone,
        "The mirror is just replacing its index of {suite}; run again in a few minutes.",
    ),
    _Cause(
        ("Unable to locate package", "has no installation candidate", "unmet dependencies"),
        MachineryMissing,
        "apt could not {task}: the mirror's {suite} lacks a package; name another with --mirror.",
    ),
    _Cause(
        ("Could not resolve", "Could not connect", "Unable to connect", "Temporary failure", "timed out"),
        MachineryMissing,
        "The mirror cannot be reached, so apt could not {task} for {suite}; check the network, or name "
        "another mirror with --mirror.",
    ),
)


def apt_error(
    suite: Suite, task: str, command: Sequence[str], exit_code: int, output: str
) -> MachineryMissing | SetupBroken:
    """Return the error for a failed apt command, of a class that says whose fault it is.

    Args:
        suite: the suite that it was called for.
        task: its task, as in "apt could not ...".
        command: its command line.
        exit_code: its exit code.
        output: all that it printed, in English.
    """
    tail = "\n".join(output.splitlines()[-20:])
    evidence = Evidence(command, exit_code, tail)

    for cause in _CAUSES:
        if any(re.search(pattern, output) for pattern in cause.patterns):
            sentence = cause.sentence.format(task=task, suite=suite.name, codename=suite.codename)
            return cause.error(sentence, evidence)
    return SetupBroken(f"apt could not {task} for {suite.name} (exit code {exit_code}).", evidence)
