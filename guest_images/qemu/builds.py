"""Provides QEMU builds side by side: each runs with its own libraries and firmware, without root."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from guest_images.cache import Cache, publish_file
from guest_images.catalogue import QEMUS, QemuSpec, host_qemu_spec, suite
from guest_images.packages.loader import find_loader
from guest_images.packages.unpacked import InputRecord, PackageSet, Tree, find_tree, provide_tree
from guest_images.provisioning import Provisioning
from harness.errors import NotApplicable, SetupBroken
from harness.qemu.architectures import DEFAULT_ARCHITECTURE, Architecture

# The firmware path that is compiled into Debian's builds, relative to the root of the packages.
_FIRMWARE = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")


@dataclass(frozen=True)
class ProvisionedQemu:
    """A QEMU build that is ready to run.

    Attributes:
        name: its name in the catalogue.
        executable: a script that behaves as the QEMU program does, from any working folder, and keeps the
            pid that it is started with.
        version: version of the package that has the program.
        manifest: every package that it runs with.
    """

    name: str
    executable: Path
    version: str
    manifest: tuple[InputRecord, ...]


def provision_qemu(
    name: str, provisioning: Provisioning, *, emulates: Architecture | None = None, refresh: bool = False
) -> ProvisionedQemu:
    """Return a QEMU of the catalogue; fetch and unpack it where the cache lacks it.

    Args:
        name: a name in `catalogue.QEMUS` or `HOST_QEMUS`.
        provisioning: the mirror, the cache, and the log of slow steps.
        emulates: the processor of its guests, by default the one that the catalogue gives.
        refresh: look for a newer version.

    Raises:
        UsageError: the catalogue has no such QEMU.
        MachineryMissing, SetupBroken: as `unpacked.provide_tree`.
    """
    spec = host_qemu_spec(name)
    target = emulates or spec.emulates
    tree = provide_tree(_package_set(spec, target), provisioning, refresh=refresh)
    return _provision(spec, target, tree)


def provisioned_qemus(cache: Cache) -> dict[QemuSpec, ProvisionedQemu | None]:
    """Return every QEMU that `--qemu` takes, with None where the cache lacks it; fetch nothing."""
    found = {spec: find_tree(_package_set(spec, spec.emulates), cache) for spec in QEMUS}
    return {spec: _provision(spec, spec.emulates, tree) if tree else None for spec, tree in found.items()}


def provision_with_module(executable: Path, package: str, provisioning: Provisioning) -> Path:
    """Return a QEMU of the catalogue again, with a package of modules that its own tree goes without.

    It has a tree of its own, so that the QEMUs of other tests stay as they are.

    Args:
        executable: the QEMU.
        package: the package, from the same release.
        provisioning: the mirror, the cache, and the log of slow steps.

    Raises:
        NotApplicable: the QEMU is not one of the catalogue's, or its release has another version by now.
        MachineryMissing, SetupBroken: as `unpacked.provide_tree`.
    """
    known = provisioned_qemus(provisioning.cache).items()
    spec, own = next(
        ((spec, qemu) for spec, qemu in known if qemu and qemu.executable == executable), (None, None)
    )
    if spec is None or own is None:
        raise NotApplicable(f"'{executable}' is none of the QEMUs for which '{package}' can be fetched.")
    base = _package_set(spec, spec.emulates)
    wanted = replace(base, name=f"{base.name}-with-{package}", packages=(*base.packages, package))
    found = _provision(spec, spec.emulates, provide_tree(wanted, provisioning))
    if found.version != own.version:
        raise NotApplicable(
            f"'{package}' is there for QEMU {found.version} and not for {own.version}; "
            "'snapproof images build --refresh' fetches the same version of both."
        )
    return found.executable


def _package_set(spec: QemuSpec, target: Architecture) -> PackageSet:
    # A set's name is unique in its suite, and a suite can have a QEMU program for each architecture.
    name = "qemu" if target.qemu == DEFAULT_ARCHITECTURE.qemu else target.qemu
    return PackageSet(name, suite(spec.suite), _packages(spec, target))


def _packages(spec: QemuSpec, target: Architecture) -> tuple[str, ...]:
    return target.qemu_packages_in(suite(spec.suite).codename)


def _provision(spec: QemuSpec, target: Architecture, tree: Tree) -> ProvisionedQemu:
    executable = tree.folder / target.qemu
    script = wrapper_script(tree.root, target.qemu, spec.architecture)
    if not executable.exists() or executable.read_text() != script:
        publish_file(executable, script.encode(), 0o755)
    version = tree.version(_packages(spec, target)[0])
    return ProvisionedQemu(spec.name, executable, version, tree.manifest)


def wrapper_script(
    root: Path, program: str = DEFAULT_ARCHITECTURE.qemu, runs_on: Architecture = DEFAULT_ARCHITECTURE
) -> str:
    """Return the shell script that runs an unpacked QEMU.

    The script finds `root` beside itself, so the folder may be moved or copied to another machine. It ends
    in `exec`, so its pid becomes QEMU's. As with `Loader.command`, the loader does not read the machine's
    ld.so.cache.

    Args:
        root: root of the unpacked packages.
        program: the QEMU program among them.
        runs_on: the processor that the packages are built for.

    Raises:
        SetupBroken: the packages lack the program or the loader.
    """
    if not (root / "usr/bin" / program).exists():
        raise SetupBroken(f"The unpacked packages in '{root}' do not include the QEMU program '{program}'.")
    loader = find_loader(root, runs_on)
    libraries = ":".join(f"$root/{path}" for path in loader.libraries)
    firmware = " ".join(f'-L "$root/{path}"' for path in _FIRMWARE if (root / path).is_dir())
    return f"""\
#!/bin/sh
# Runs the QEMU in the folder `root` beside this script, with the libraries and firmware there.
root=$(readlink -f -- "$0") || exit 127
root=${{root%/*}}/root
export QEMU_MODULE_DIR="$root/usr/lib/{runs_on.triplet}/qemu"
exec "$root/{loader.path}" --inhibit-cache --library-path "{libraries}" \\
    "$root/usr/bin/{program}" {firmware} "$@"
"""
