"""Compiles small kernels for hosts from Debian's kernel source, where the cache lacks them."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from guest_images.cache import Cache, publish_file, publish_folder, read_json, to_json
from guest_images.catalogue import suite
from guest_images.hosts import kernel_config
from guest_images.hosts.kernel_config import (
    ARCHITECTURE,
    KCONFIG,
    KERNELS,
    KernelSpec,
    check_config,
    edited,
    kernel_spec,
    parse_symbols,
    read_fragment,
    remove_selects,
)
from guest_images.packages.unpacked import (
    InputRecord,
    PackageSet,
    Tree,
    find_tree,
    manifest_digest,
    provide_tree,
)
from guest_images.programs import first_output_line, run_program
from guest_images.provisioning import Provisioning
from harness.deadline import Deadline
from harness.errors import DeadlineExpired, Evidence, MachineryMissing, SetupBroken
from harness.hosts.host import Host
from harness.hosts.link import LocalLink
from harness.hosts.spec import LOCAL
from harness.process import log_tail

SUITE, SOURCE = "debian-13", "linux-source-6.12"
"""Suite and package of the source: Debian's stable Linux, so that only the configuration is special."""

BUILD_SECONDS = 3600.0
"""Limit for one kernel, from unpacking the source to the image."""

_PREPROCESS_SECONDS = 60.0

# The package of each program that compiling a kernel needs (Linux Documentation/process/changes.rst).
_TOOLS = {
    "bc": "bc",
    "bison": "bison",
    "flex": "flex",
    "gcc": "gcc",
    "gzip": "gzip",
    "ld": "binutils",
    "make": "make",
    "tar": "tar",
    "xz": "xz-utils",
}
# objtool, which the build of an x86 kernel compiles and runs, includes this header.
_HEADER, _HEADER_PACKAGE = "gelf.h", "libelf-dev"
# All variables of the build but PATH. Equal inputs give equal kernels, at any time, for any user, and even
# where a kernel developer has set ARCH, CROSS_COMPILE or KCFLAGS.
_ENVIRONMENT = (
    "KBUILD_BUILD_TIMESTAMP=1970-01-01",
    "KBUILD_BUILD_USER=snapproof",
    "KBUILD_BUILD_HOST=snapproof",
    "LC_ALL=C",
)
_LOG = "build.log"


@dataclass(frozen=True)
class BuiltKernel:
    """A compiled kernel.

    Attributes:
        spec: its entry in the catalogue.
        image: the image for QEMU's `-kernel`; nothing is a module.
        release: what `uname -r` says in it.
    """

    spec: KernelSpec
    image: Path
    release: str


def build_kernel(name: str, provisioning: Provisioning, *, refresh: bool = False) -> BuiltKernel:
    """Return a kernel of the catalogue; compile it where the cache lacks it.

    The cache knows it by source, configuration and compiler.

    Args:
        name: a name in `kernel_config.KERNELS`.
        provisioning: the mirror, the cache, and the log of slow steps.
        refresh: look for a newer source.

    Raises:
        UsageError: the catalogue has no such kernel.
        MachineryMissing: a program that compiling needs is not installed; others as `unpacked.provide_tree`.
        SetupBroken: the source cannot be configured as wanted or does not compile.
    """
    spec = kernel_spec(name)
    toolchain = _toolchain()
    wanted = _package_set()
    source = provide_tree(wanted, provisioning, refresh=refresh)
    manifest = _manifest(spec, source, toolchain)
    final = _final_folder(spec, manifest, provisioning.cache)
    if not final.is_dir():
        require_tools(missing_tools())
        _build(spec, source, manifest, final, provisioning)
    return _built(spec, final)


def built_kernels(cache: Cache) -> dict[KernelSpec, BuiltKernel | None]:
    """Return every kernel of the catalogue, with None where the cache lacks it; compile nothing."""
    source = find_tree(_package_set(), cache)
    if source is None or shutil.which("gcc") is None or shutil.which("ld") is None:
        return dict.fromkeys(KERNELS)
    toolchain = _toolchain()
    finals = {spec: _final_folder(spec, _manifest(spec, source, toolchain), cache) for spec in KERNELS}
    return {spec: _built(spec, final) if final.is_dir() else None for spec, final in finals.items()}


def missing_tools() -> list[str]:
    """Return the Debian packages, sorted, that this machine lacks for compiling a kernel."""
    missing = {package for program, package in _TOOLS.items() if shutil.which(program) is None}
    if "gcc" not in missing:
        preprocess = ["gcc", "-E", "-xc", "-include", _HEADER, "-o", "/dev/null", "/dev/null"]
        if run_program("gcc", f"include {_HEADER}", preprocess, _PREPROCESS_SECONDS).returncode:
            missing.add(_HEADER_PACKAGE)
    return sorted(missing)


def require_tools(missing: list[str]) -> None:
    """Raise MachineryMissing, with the command that installs them, where packages are missing."""
    if missing:
        raise MachineryMissing(
            "This machine lacks programs for compiling a kernel; install them with "
            f"'apt-get install {' '.join(missing)}'."
        )


def _toolchain() -> str:
    require_tools([_TOOLS[program] for program in ("gcc", "ld") if shutil.which(program) is None])
    target = first_output_line(["gcc", "-dumpmachine"])
    if not target.startswith(ARCHITECTURE.name):
        raise MachineryMissing(
            f"The 'gcc' of this machine compiles for {target}, and host kernels are compiled for "
            f"{ARCHITECTURE.name} only."
        )
    return f"{first_output_line(['gcc', '--version'])}, {first_output_line(['ld', '--version'])}"


def _package_set() -> PackageSet:
    # Only the source itself is kept; its dependencies are for compiling it by hand.
    return PackageSet("kernel-source", suite(SUITE), (SOURCE,), (SOURCE,))


def _manifest(spec: KernelSpec, source: Tree, toolchain: str) -> tuple[InputRecord, ...]:
    recipe = hashlib.sha256(read_fragment(spec).encode())
    for file in (__file__, kernel_config.__file__):
        recipe.update(Path(file).read_bytes())
    compiler = hashlib.sha256(toolchain.encode()).hexdigest()
    return (
        *source.manifest,
        InputRecord("kernel recipe", recipe.hexdigest()[:12], recipe.hexdigest()),
        InputRecord("kernel compiler", toolchain, compiler),
    )


def _final_folder(spec: KernelSpec, manifest: tuple[InputRecord, ...], cache: Cache) -> Path:
    return cache.path("kernels", f"{spec.name}-{manifest_digest(manifest)[:12]}")


def _built(spec: KernelSpec, final: Path) -> BuiltKernel:
    description = read_json(final / "manifest.json")
    return BuiltKernel(spec, final / _image_name(spec), str(description["release"]))


def _image_name(spec: KernelSpec) -> str:
    return f"{ARCHITECTURE.linux_image}-{spec.name}"


def _build(
    spec: KernelSpec, source: Tree, manifest: tuple[InputRecord, ...], final: Path, provisioning: Provisioning
) -> None:
    with provisioning.locked_staging("kernels") as staging:
        if final.is_dir():
            return
        provisioning.log(
            f"Compiling the kernel '{spec.name}' ({source.manifest[0].version}); this takes minutes."
        )
        for symbol in spec.not_selected:
            provisioning.log(f"Removing the line of its {KCONFIG} that selects {symbol}.")
        for edit in spec.edits:
            provisioning.log(f"Changing its {edit.file}: {edit.old!r} becomes {edit.new!r}.")
        begun = time.monotonic()
        made = staging / "made"
        made.mkdir()
        build_log = made / _LOG
        build_log.touch()
        # The log's place after a failure, which leaves nothing else behind.
        kept = provisioning.cache.path("kernels", f"{spec.name}.log")
        try:
            release = compile_kernel(spec, source, staging / "linux", made, kept)
        finally:
            publish_file(kept, build_log.read_bytes())
        description = {"release": release, "inputs": [asdict(record) for record in manifest]}
        (made / "manifest.json").write_bytes(to_json(description))
        publish_folder(made, final)
        provisioning.log(f"Compiled in {time.monotonic() - begun:.0f} s.")


def compile_kernel(spec: KernelSpec, source: Tree, linux: Path, made: Path, kept: Path) -> str:
    """Compile a kernel without asking the cache; return its release.

    Args:
        spec: the kernel.
        source: the unpacked source package.
        linux: a folder to make, for the source and all that the build writes.
        made: a folder for image, configuration and log.
        kept: the path of the log that messages name.

    Raises:
        SetupBroken: the configuration did not come out as wanted, or a step failed or took too long.
    """
    with Host(LOCAL, LocalLink()) as host, (made / _LOG).open("wb", buffering=0) as file:
        steps = _Steps(spec, host, file, Deadline(BUILD_SECONDS), kept)
        _configure(spec, source, linux, steps)
        steps.run(*_make(linux), ARCHITECTURE.linux_image)
    shutil.copy(linux / ".config", made / "config")
    image = linux / "arch" / ARCHITECTURE.linux_folder / "boot" / ARCHITECTURE.linux_image
    shutil.copy(image, made / _image_name(spec))
    return (linux / "include/config/kernel.release").read_text().strip()


def unpack_kernel(name: str, linux: Path, provisioning: Provisioning) -> None:
    """Unpack and configure the source of a kernel of the catalogue, for the caller to change and compile.

    Args:
        name: a name in `kernel_config.KERNELS`.
        linux: a folder to make for the source; the log beside it has `.log` added to its name.
        provisioning: the mirror, the cache, and the log of slow steps.

    Raises:
        UsageError, MachineryMissing, SetupBroken: as `build_kernel`.
    """
    spec = kernel_spec(name)
    require_tools(missing_tools())
    source = provide_tree(_package_set(), provisioning)
    said = linux.with_name(f"{linux.name}.log")
    with Host(LOCAL, LocalLink()) as host, said.open("wb", buffering=0) as file:
        _configure(spec, source, linux, _Steps(spec, host, file, Deadline(BUILD_SECONDS), said))


def _configure(spec: KernelSpec, source: Tree, linux: Path, steps: _Steps) -> None:
    linux.mkdir()
    wanted, config = read_fragment(spec), linux / ".config"
    archive = source.root / "usr/src" / f"{SOURCE}.tar.xz"
    steps.run("tar", "-xf", str(archive), "-C", str(linux), "--strip-components=1")
    kconfig = linux / KCONFIG
    kconfig.write_text(remove_selects(kconfig.read_text(), spec.not_selected))
    for edit in spec.edits:
        file = linux / edit.file
        file.write_text(edited(file.read_text(encoding="utf-8"), edit), encoding="utf-8")
    steps.run(*_make(linux), "tinyconfig")
    config.write_text(config.read_text() + wanted)
    steps.run(*_make(linux), "olddefconfig")
    check_config(parse_symbols(wanted), config.read_text())


def _make(linux: Path) -> tuple[str, ...]:
    return "make", "-C", str(linux), f"-j{len(os.sched_getaffinity(0))}"


@dataclass(frozen=True)
class _Steps:
    """Runs the commands of one compilation: output goes into a log, all their processes end with ours."""

    spec: KernelSpec
    host: Host
    log: io.FileIO
    deadline: Deadline
    kept: Path

    def run(self, *command: str) -> None:
        """Run a command in the build's environment; raise SetupBroken where it fails or takes too long."""
        environment = (f"PATH={os.environ.get('PATH', os.defpath)}", *_ENVIRONMENT)
        argv = ["env", "-i", *environment, "sh", "-c", 'exec "$@" 2>&1', "sh", *command]
        try:
            # Under a supervisor compilers end too, even those of a make that has died.
            code = self.host.run(argv, self.deadline, on_output=self._keep).exit_code
        except DeadlineExpired as error:
            raise SetupBroken(
                f"The kernel '{self.spec.name}' was not compiled within {BUILD_SECONDS:.0f} s.",
                self._evidence(command),
            ) from error
        if code:
            raise SetupBroken(
                f"The kernel '{self.spec.name}' could not be compiled: '{command[0]} ... {command[-1]}' "
                f"ended with exit code {code}; its log is '{self.kept}'.",
                self._evidence(command, code),
            )

    def _keep(self, output: bytes) -> None:
        self.log.write(output)

    def _evidence(self, command: Sequence[str], code: int | None = None) -> Evidence:
        return Evidence(command, code, log_tail(Path(str(self.log.name))), (self.kept,))
