"""Finds a guest kernel and the modules it needs in unpacked packages, in the order to load them."""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from guest_images.elf import module_info
from harness.errors import SetupBroken

WANTED = (
    "virtio_pci",
    "virtio_net",
    "virtio_blk",
    "virtio_rng",
    "virtio_balloon",
    "virtio_mem",
    "virtio_console",
)
"""Drivers of every device that a test puts into a guest."""


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
    """A kernel in unpacked packages.

    Attributes:
        image: the bzImage.
        modules_folder: the folder named by the kernel release, with `kernel/` in it.
    """

    image: Path
    modules_folder: Path

    @property
    def release(self) -> str:
        """What `uname -r` says in it."""
        return self.modules_folder.name


def find_kernel(root: Path) -> Kernel:
    """Find the one kernel below `root`.

    Its modules are in `lib/modules` up to Debian 12 and `usr/lib/modules` since; its image is in `boot`,
    or since Linux 7 beside the modules.

    Raises:
        SetupBroken: there is none, or more than one.
    """
    folders = [*root.glob("lib/modules/*/kernel"), *root.glob("usr/lib/modules/*/kernel")]
    if len(folders) != 1:
        raise SetupBroken(f"There should be one kernel in '{root}', and there are {len(folders)}.")
    modules = folders[0].parent
    for image in (root / "boot" / f"vmlinuz-{modules.name}", modules / "vmlinuz"):
        if image.is_file():
            return Kernel(image, modules)
    raise SetupBroken(f"The packages in '{root}' have modules for {modules.name} and no kernel image.")


def load_order(kernel: Kernel, wanted: Iterable[str] = WANTED) -> tuple[Module, ...]:
    """Return the wanted modules and those they depend on, each after what it depends on.

    Dependencies are read from the modules, since `modules.dep` is made by depmod on installation and so
    is in no package. A module without a file is taken for built in, unless the kernel has a list of
    those (Linux 7 packages have none) that does not name it.

    Raises:
        SetupBroken: a module is neither there nor built in, or cannot be read.
    """
    files = {_module_name(path): path for path in kernel.modules_folder.rglob("*.ko*")}
    built_in = _built_in(kernel)
    ordered: dict[str, Module] = {}

    def visit(name: str) -> None:
        if name in ordered:
            return
        if name not in files:
            if built_in is not None and name not in built_in:
                raise SetupBroken(f"The kernel {kernel.release} has no driver '{name}'.")
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
    listing = kernel.modules_folder / "modules.builtin"
    if not listing.is_file():
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
    raise SetupBroken(f"The kernel module '{path}' is compressed in a way that is not known here.")
