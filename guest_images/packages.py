"""Unpacks sets of Debian packages side by side, one folder per set, addressed by what is in it."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from guest_images.apt_state import AptState, Package, VersionGone
from guest_images.cache import Cache, Log, publish_file, publish_folder, read_json, to_json
from guest_images.catalogue import Suite
from harness.errors import Evidence, MachineryMissing, SetupBroken


@dataclass(frozen=True)
class InputRecord:
    """One input of a build: a package, a source file set or a key, by name, version and SHA256."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class PackageSet:
    """What to unpack together.

    Attributes:
        name: names the set in the cache, unique among all sets of a suite.
        suite: where the packages come from.
        packages: the packages asked for; what they depend on comes along.
        keep: where not empty, only packages whose names start with one of these are kept of all that.
    """

    name: str
    suite: Suite
    packages: tuple[str, ...]
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tree:
    """A package set, unpacked.

    Attributes:
        folder: holds `root/`, the unpacked files.
        digest: SHA256 over name, version and SHA256 of every package.
        manifest: every package, sorted by name.
    """

    folder: Path
    digest: str
    manifest: tuple[InputRecord, ...]

    @property
    def root(self) -> Path:
        """The folder that stands for `/` of the unpacked packages."""
        return self.folder / "root"

    def version(self, package: str) -> str:
        """Version of `package` in this tree.

        Raises:
            SetupBroken: the tree does not have it.
        """
        for record in self.manifest:
            if record.name == package:
                return record.version
        raise SetupBroken(f"The unpacked packages in '{self.folder}' do not include '{package}'.")


def manifest_digest(manifest: Iterable[InputRecord]) -> str:
    """SHA256 in hex over a manifest, independent of its order."""
    lines = sorted(f"{record.name} {record.version} {record.sha256}\n" for record in manifest)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def find_tree(wanted: PackageSet, cache: Cache) -> Tree | None:
    """The tree that an earlier run resolved and unpacked for this set, or None."""
    pointer = read_json(_pointer(wanted, cache))
    if pointer is None or pointer["packages"] != list(wanted.packages):
        return None
    manifest = tuple(InputRecord(**record) for record in pointer["manifest"])
    tree = _tree(wanted, cache, manifest)
    return tree if tree.folder.is_dir() else None


def provide_tree(
    wanted: PackageSet, cache: Cache, log: Log, *, mirror: str | None = None, refresh: bool = False
) -> Tree:
    """Return the unpacked set, fetching it where it is not in the cache.

    Versions are resolved once ("newest in the suite") and kept, so that runs are alike and a second run
    needs no network; `refresh` resolves again.

    Raises:
        MachineryMissing: no apt, mirror, keyring, network or such package.
        SetupBroken: a bad signature, a full disk, a package that does not unpack.
    """
    with cache.lock(f"apt-{wanted.suite.name}", log):
        found = find_tree(wanted, cache)
        if found is not None and not refresh:
            return found
        apt = AptState(cache, wanted.suite, log, mirror)
        try:
            return _resolve_and_fetch(apt, wanted, cache, log, update=refresh)
        except VersionGone:
            # A young index can still name a version that the mirror has just replaced.
            pass
        try:
            return _resolve_and_fetch(apt, wanted, cache, log, update=True)
        except VersionGone:
            # The security archive of a retired suite goes on naming files that are gone: so did
            # bullseye-security in November 2026 with Linux 5.10.262. The main archive keeps its own.
            log(f"The newest {wanted.name} of {wanted.suite.name} is gone; taking the main archive's.")
        apt = AptState(cache, wanted.suite, log, mirror, security=False)
        return _resolve_and_fetch(apt, wanted, cache, log, update=False)


def _resolve_and_fetch(apt: AptState, wanted: PackageSet, cache: Cache, log: Log, *, update: bool) -> Tree:
    apt.update(force=update)
    packages = _resolve(apt, wanted)
    manifest = tuple(InputRecord(p.name, p.version, p.sha256) for p in packages)
    tree = _tree(wanted, cache, manifest)
    if not tree.folder.is_dir():
        _fetch(apt, wanted, packages, tree, cache, log)
    pointer = {"packages": wanted.packages, "manifest": [asdict(record) for record in manifest]}
    publish_file(_pointer(wanted, cache), to_json(pointer))
    return tree


def _pointer(wanted: PackageSet, cache: Cache) -> Path:
    return cache.path("resolved", f"{wanted.suite.name}-{wanted.name}.json")


def _tree(wanted: PackageSet, cache: Cache, manifest: tuple[InputRecord, ...]) -> Tree:
    digest = manifest_digest(manifest)
    return Tree(cache.path("trees", f"{wanted.suite.name}-{wanted.name}-{digest[:12]}"), digest, manifest)


def _resolve(apt: AptState, wanted: PackageSet) -> tuple[Package, ...]:
    packages = apt.resolve(wanted.packages)
    if wanted.keep:
        packages = tuple(package for package in packages if package.name.startswith(wanted.keep))
    if not packages:
        raise MachineryMissing(f"{wanted.suite.name} has no package for '{wanted.name}'.")
    return packages


def _fetch(
    apt: AptState, wanted: PackageSet, packages: Sequence[Package], tree: Tree, cache: Cache, log: Log
) -> None:
    with cache.staging(f"apt-{wanted.suite.name}") as staging:
        debs, staged = staging / "debs", staging / "tree"
        for folder in (debs, staged / "root"):
            folder.mkdir(parents=True)
        megabytes = sum(package.size for package in packages) / 1e6
        log(f"Downloading {len(packages)} packages, {megabytes:.0f} MB, for {wanted.name}.")
        apt.download(packages, debs)
        unpack(packages, debs, staged / "root", log)
        (staged / "manifest.json").write_bytes(to_json([asdict(record) for record in tree.manifest]))
        publish_folder(staged, tree.folder)


def unpack(packages: Sequence[Package], debs: Path, root: Path, log: Log) -> None:
    """Unpack the `.deb` files in `debs`, which must be exactly `packages`, into `root`.

    Raises:
        SetupBroken: a file is missing, is not the one in the index, or does not unpack.
    """
    log(f"Unpacking {len(packages)} packages.")
    by_digest = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in debs.glob("*.deb")}
    environment = os.environ | {"LC_ALL": "C"}
    for package in packages:
        path = by_digest.get(package.sha256)
        if path is None:
            raise SetupBroken(
                f"The download of '{package.name}' {package.version} is not the file that the index names."
            )
        command = ["dpkg-deb", "-x", str(path), str(root)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
        if done.returncode != 0:
            evidence = Evidence(command, done.returncode, done.stderr)
            full = "No space left on device" in done.stderr
            why = "the disk is full" if full else f"dpkg-deb ended with exit code {done.returncode}"
            raise SetupBroken(f"The package '{package.name}' could not be unpacked: {why}.", evidence)
