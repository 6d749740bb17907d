"""Provides QEMU builds side by side: each runs with its own libraries and firmware, without root."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from guest_images.architectures import AMD64, ARCHITECTURES, Architecture
from guest_images.cache import Cache, Log, publish_file
from guest_images.catalogue import QEMUS, QemuSpec, host_qemu_spec, suite
from guest_images.loader import find_loader
from guest_images.packages import InputRecord, PackageSet, Tree, find_tree, provide_tree
from harness.errors import SetupBroken


@dataclass(frozen=True)
class ProvisionedQemu:
    """A QEMU build that is ready to run.

    Attributes:
        name: its name in the catalogue.
        executable: behaves like the QEMU executable, from any working folder, under the pid it is
            started with.
        version: version of the package it came from.
        manifest: every package that it runs with.
    """

    name: str
    executable: Path
    version: str
    manifest: tuple[InputRecord, ...]


def provision_qemu(
    name: str, cache: Cache, log: Log, *, mirror: str | None = None, refresh: bool = False
) -> ProvisionedQemu:
    """Return a QEMU of the catalogue, fetching and unpacking it where the cache does not have it.

    Args:
        name: a name in `catalogue.QEMUS` or `HOST_QEMUS`.
        cache: where it is kept.
        log: told what takes time.
        mirror: a Debian mirror to use instead of the machine's own apt sources.
        refresh: look for a newer version.

    Raises:
        UsageError: no such name. MachineryMissing, SetupBroken: see `packages.provide_tree`.
    """
    spec = host_qemu_spec(name)
    found = None if refresh else find_tree(_package_set(spec), cache)
    return _ready(spec, found or provide_tree(_package_set(spec), cache, log, mirror=mirror, refresh=refresh))


def provisioned_qemus(cache: Cache) -> dict[QemuSpec, ProvisionedQemu | None]:
    """Every QEMU of the catalogue, with None for those that are not in the cache; fetches nothing."""
    found = {spec: find_tree(_package_set(spec), cache) for spec in QEMUS}
    return {spec: _ready(spec, tree) if tree else None for spec, tree in found.items()}


def _package_set(spec: QemuSpec) -> PackageSet:
    # A suite can hold more than one: a set's name is unique in it.
    name = "qemu" if spec.program == _USUAL else spec.program
    return PackageSet(name, suite(spec.suite), spec.packages)


def _ready(spec: QemuSpec, tree: Tree) -> ProvisionedQemu:
    executable = tree.folder / spec.program
    text = wrapper(tree.root, spec.program, ARCHITECTURES[suite(spec.suite).architecture])
    if not executable.exists() or executable.read_text() != text:
        publish_file(executable, text.encode(), 0o755)
    return ProvisionedQemu(spec.name, executable, tree.version(spec.packages[0]), tree.manifest)


_USUAL = "qemu-system-x86_64"
# The firmware path compiled into Debian's builds, here below the unpacked root.
_FIRMWARE = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")


def wrapper(root: Path, program: str = _USUAL, architecture: Architecture = AMD64) -> str:
    """The shell script that runs the QEMU unpacked in `root`.

    The script finds `root` beside itself, so the folder may be moved or copied to another machine. It
    execs: the pid is QEMU's own. As `loader.Loader.command` it leaves out the machine's ld.so.cache.

    Raises:
        SetupBroken: what should be a QEMU has no loader or no executable.
    """
    if not (root / "usr/bin" / program).exists():
        raise SetupBroken(f"The unpacked packages in '{root}' are not a QEMU that can be run.")
    loader = find_loader(root, architecture)
    libraries = ":".join(f"$root/{path}" for path in loader.libraries)
    firmware = " ".join(f'-L "$root/{path}"' for path in _FIRMWARE if (root / path).is_dir())
    return f"""\
#!/bin/sh
# Runs the QEMU in the folder `root` beside this script, with the libraries and firmware there.
root=$(readlink -f -- "$0") || exit 127
root=${{root%/*}}/root
export QEMU_MODULE_DIR="$root/usr/lib/{architecture.triplet}/qemu"
exec "$root/{loader.path}" --inhibit-cache --library-path "{libraries}" \\
    "$root/usr/bin/{program}" {firmware} "$@"
"""
