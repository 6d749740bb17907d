"""Unpacks sets of Debian packages into the cache, each into a folder named by a digest of its packages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from guest_images.cache import Cache, Log, publish_file, publish_folder, read_json, to_json
from guest_images.catalogue import Suite
from guest_images.packages.apt_state import AptState, Package, VersionGone
from guest_images.programs import run_program
from guest_images.provisioning import Provisioning
from harness.errors import Evidence, MachineryMissing, SetupBroken

_UNPACK_SECONDS = 600.0


@dataclass(frozen=True)
class InputRecord:
    """One input of a build: a package, a source file set or a key, by name, version and SHA256."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class PackageSet:
    """Debian packages to unpack into one folder.

    Attributes:
        name: its name in the cache, unique among the sets of a suite.
        suite: the suite of the packages.
        packages: the packages; those that they depend on are unpacked too.
        keep: beginnings of package names; packages of other names are left out. Empty: all are kept.
    """

    name: str
    suite: Suite
    packages: tuple[str, ...]
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tree:
    """A package set in the cache, unpacked.

    Attributes:
        folder: has the unpacked files in `root/`.
        digest: SHA256 over name, version and SHA256 of every package.
        manifest: every package, sorted by name.
    """

    folder: Path
    digest: str
    manifest: tuple[InputRecord, ...]

    @property
    def root(self) -> Path:
        """The folder with the unpacked files, which stands for `/`."""
        return self.folder / "root"

    def version(self, package: str) -> str:
        """Return the version of a package in this tree.

        Raises:
            SetupBroken: the tree does not have the package.
        """
        for record in self.manifest:
            if record.name == package:
                return record.version
        raise SetupBroken(
            f"The unpacked packages in '{self.folder}' do not include '{package}'; delete that folder and "
            "run again."
        )


def manifest_digest(manifest: Iterable[InputRecord]) -> str:
    """Return the SHA256 in hex over a manifest, whatever the order of its records."""
    lines = sorted(f"{record.name} {record.version} {record.sha256}\n" for record in manifest)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def find_program(root: Path, name: str) -> str:
    """Return the path of a program in unpacked packages, relative to their root.

    Raises:
        SetupBroken: the packages do not have the program.
    """
    for folder in ("bin", "usr/bin", "sbin", "usr/sbin", "usr/libexec"):
        if (root / folder / name).is_file():
            return f"{folder}/{name}"
    raise SetupBroken(f"The packages in '{root}' do not include the program '{name}'.")


def find_tree(wanted: PackageSet, cache: Cache) -> Tree | None:
    """Return the tree that an earlier run unpacked for a package set, None where there is none."""
    pointer = read_json(_pointer(wanted, cache))
    if pointer is None or pointer["packages"] != list(wanted.packages):
        return None
    manifest = tuple(InputRecord(**record) for record in pointer["manifest"])
    tree = _tree(wanted, cache, manifest)
    return tree if tree.folder.is_dir() else None


def provide_tree(wanted: PackageSet, provisioning: Provisioning, *, refresh: bool = False) -> Tree:
    """Return a package set unpacked; fetch it where the cache lacks it.

    Versions are resolved once, to the newest in the suite, and kept: runs are alike, and a second run needs
    no network.

    Args:
        wanted: the package set.
        provisioning: the mirror, the cache, and the log of slow steps.
        refresh: resolve the versions again.

    Raises:
        UsageError: `mirror` is not a URI.
        MachineryMissing: apt, a mirror, Debian's keyring, the network or a package is missing.
        SetupBroken: a signature is bad, the disk is full, or a package does not unpack.
    """
    # Without the lock: a run must not wait for another one that fetches something else of the suite.
    if not refresh and (found := find_tree(wanted, provisioning.cache)):
        return found
    with provisioning.lock(f"apt-{wanted.suite.name}"):
        if not refresh and (found := find_tree(wanted, provisioning.cache)):
            return found
        apt = AptState(wanted.suite, provisioning)
        try:
            return _resolve_and_fetch(apt, wanted, provisioning, update=refresh)
        except VersionGone:
            # A young index can still name a version that the mirror has just replaced.
            pass
        try:
            return _resolve_and_fetch(apt, wanted, provisioning, update=True)
        except VersionGone:
            # The security archive of a retired suite goes on naming files that are gone, as
            # bullseye-security did in November 2026 with Linux 5.10.262. The main archive keeps its own.
            provisioning.log(
                f"The mirror no longer has the newest {wanted.name} of {wanted.suite.name}; taking the one "
                "of the main archive."
            )
        apt = AptState(wanted.suite, provisioning, security=False)
        return _resolve_and_fetch(apt, wanted, provisioning, update=False)


def _resolve_and_fetch(
    apt: AptState, wanted: PackageSet, provisioning: Provisioning, *, update: bool
) -> Tree:
    apt.update(force=update)
    packages = _resolve(apt, wanted)
    manifest = tuple(InputRecord(p.name, p.version, p.sha256) for p in packages)
    tree = _tree(wanted, provisioning.cache, manifest)
    if not tree.folder.is_dir():
        _fetch(apt, wanted, packages, tree, provisioning)
    pointer = {"packages": wanted.packages, "manifest": [asdict(record) for record in manifest]}
    publish_file(_pointer(wanted, provisioning.cache), to_json(pointer))
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
        raise MachineryMissing(
            f"The mirror's {wanted.suite.name} has none of the packages {', '.join(wanted.keep)} that "
            f"'{wanted.name}' needs."
        )
    return packages


def _fetch(
    apt: AptState, wanted: PackageSet, packages: Sequence[Package], tree: Tree, provisioning: Provisioning
) -> None:
    with provisioning.cache.staging(f"apt-{wanted.suite.name}") as staging:
        debs, staged = staging / "debs", staging / "tree"
        for folder in (debs, staged / "root"):
            folder.mkdir(parents=True)
        megabytes = sum(package.size for package in packages) / 1e6
        provisioning.log(f"Downloading {len(packages)} packages, {megabytes:.0f} MB, for '{wanted.name}'.")
        apt.download(packages, debs)
        unpack(packages, debs, staged / "root", provisioning.log)
        (staged / "manifest.json").write_bytes(to_json([asdict(record) for record in tree.manifest]))
        publish_folder(staged, tree.folder)


def unpack(packages: Sequence[Package], debs: Path, root: Path, log: Log) -> None:
    """Unpack the `.deb` files of packages into a folder.

    Args:
        packages: the packages, as the signed index names them.
        debs: the folder with their files.
        root: the folder to unpack into.
        log: told what takes time.

    Raises:
        SetupBroken: a file is missing, is not the one in the index, or does not unpack.
    """
    log(f"Unpacking {len(packages)} packages.")
    by_digest = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in debs.glob("*.deb")}
    for package in packages:
        path = by_digest.get(package.sha256)
        if path is None:
            raise SetupBroken(
                f"The mirror's file of the package '{package.name}' {package.version} is not the one that "
                "its index names; run again later, or name another mirror with --mirror."
            )
        command = ["dpkg-deb", "-x", str(path), str(root)]
        done = run_program("dpkg-deb", f"unpack '{package.name}'", command, _UNPACK_SECONDS)
        if done.returncode != 0:
            evidence = Evidence(command, done.returncode, done.stderr)
            full = "No space left on device" in done.stderr
            why = "the disk is full" if full else f"dpkg-deb ended with exit code {done.returncode}"
            raise SetupBroken(f"The package '{package.name}' could not be unpacked: {why}.", evidence)
