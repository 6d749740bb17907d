"""Finds the kernel in unpacked Debian packages, and the modules to load in it in their order."""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from guest_images.catalogue import Suite
from guest_images.packages.elf import module_info
from guest_images.packages.unpacked import PackageSet
from harness.errors import SetupBroken
from harness.qemu.architectures import DEFAULT_ARCHITECTURE, Architecture

GUEST_MODULES = (
    "virtio_pci",
    "virtio_net",
    "virtio_blk",
    "virtio_rng",
    "virtio_balloon",
    "virtio_mem",
    "virtio_console",
)
"""Drivers of all devices that tests add to guests."""

# Since Linux 7 Debian's kernel package is split into linux-binary and linux-modules. The rest of what it
# depends on is there to make an initramfs.
KERNEL_PACKAGES = ("linux-image-", "linux-binary-", "linux-modules-")
"""Beginnings of the names of the packages of a kernel."""


@dataclass(frozen=True)
class Module:
    """A kernel module.

    Attributes:
        name: with underscores, as the kernel lists it.
        image: the module as an uncompressed ELF file, which busybox's insmod can load.
    """

    name: str
    image: bytes


@dataclass(frozen=True)
class Kernel:
    """A Linux kernel and its modules.

    Attributes:
        image: the image for QEMU's `-kernel`.
        modules_folder: the folder of its modules, named by the kernel release; None where all that a VM
            needs is built in.
    """

    image: Path
    modules_folder: Path | None

    @property
    def release(self) -> str:
        """What `uname -r` says in the VM, empty where only booting it tells."""
        return self.modules_folder.name if self.modules_folder else ""


def kernel_packages(suite: Suite, other: str = "") -> PackageSet:
    """Return the packages of the newest kernel in a suite: the usual one, or that of another metapackage."""
    package = other or suite.architecture.kernel_package
    return PackageSet(other or "kernel", suite, (package,), KERNEL_PACKAGES)


def find_kernel(root: Path, architecture: Architecture = DEFAULT_ARCHITECTURE) -> Kernel:
    """Return the kernel in unpacked packages.

    Its modules are in `lib/modules` up to Debian 12 and in `usr/lib/modules` since; its image is in `boot`,
    or beside the modules since Linux 7.

    Args:
        root: root of the unpacked packages.
        architecture: the processor that they are built for.

    Raises:
        SetupBroken: there is no kernel, or more than one.
    """
    folders = [*root.glob("lib/modules/*/kernel"), *root.glob("usr/lib/modules/*/kernel")]
    if len(folders) != 1:
        raise SetupBroken(f"The packages in '{root}' should have one kernel, and there are {len(folders)}.")
    modules = folders[0].parent
    name = architecture.kernel_file
    for image in (root / "boot" / f"{name}-{modules.name}", modules / name):
        if image.is_file():
            return Kernel(image, modules)
    raise SetupBroken(f"The packages in '{root}' have modules for {modules.name} and no kernel image.")


def module_files(kernel: Kernel) -> dict[str, Path]:
    """Return the files of a kernel's modules, by the module's name with underscores."""
    if kernel.modules_folder is None:
        return {}
    return {_module_name(path): path for path in kernel.modules_folder.rglob("*.ko*")}


def guest_modules(architecture: Architecture) -> tuple[str, ...]:
    """Return the drivers of all devices that tests add to guests, as far as an architecture has them."""
    return tuple(name for name in GUEST_MODULES if name not in architecture.lacks_drivers)


def load_order(kernel: Kernel, wanted: Iterable[str]) -> tuple[Module, ...]:
    """Return modules and those that they depend on, each after its dependencies.

    Dependencies are read from the modules, since depmod writes `modules.dep` at the installation and no
    package has it. A module without a file counts as built in, unless the kernel has a list of built-in
    modules that does not name it; packages of Linux 7 have no such list.

    Args:
        kernel: the kernel.
        wanted: names of modules, with underscores.

    Raises:
        SetupBroken: a module is neither a file nor built in, or cannot be read.
    """
    files = module_files(kernel)
    built_in = _built_in(kernel)
    ordered: dict[str, Module] = {}

    def visit(name: str) -> None:
        """Add a module behind those that it depends on."""
        if name in ordered:
            return
        if name not in files:
            if built_in is not None and name not in built_in:
                raise SetupBroken(f"The kernel {kernel.release} has no driver '{name}', which the VM needs.")
            return
        module = Module(name, _read(files[name]))
        for dependency in _dependencies(module, kernel):
            visit(dependency)
        ordered[name] = module

    for name in wanted:
        visit(name)
    return tuple(ordered.values())


def _module_name(path: Path | str) -> str:
    return Path(path).name.partition(".ko")[0].replace("-", "_")


def _built_in(kernel: Kernel) -> frozenset[str] | None:
    listing = kernel.modules_folder / "modules.builtin" if kernel.modules_folder else None
    if listing is None or not listing.is_file():
        return None
    return frozenset(_module_name(line) for line in listing.read_text().splitlines())


def _dependencies(module: Module, kernel: Kernel) -> Iterator[str]:
    try:
        depends = module_info(module.image).get("depends", "")
    except ValueError as error:
        raise SetupBroken(f"The module '{module.name}' of {kernel.release} is damaged: {error}.") from error
    yield from (name.replace("-", "_") for name in depends.split(",") if name)


def _read(path: Path) -> bytes:
    content = path.read_bytes()
    try:
        match path.suffix:
            case ".ko":
                return content
            case ".xz":
                return lzma.decompress(content)
    except lzma.LZMAError as error:
        raise SetupBroken(f"The kernel module '{path}' does not decompress: {error}.") from error
    raise SetupBroken(
        f"The kernel module '{path}' is compressed as '{path.suffix}'; only '.xz' can be decompressed."
    )
