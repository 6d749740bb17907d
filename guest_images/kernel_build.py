"""Compiles small x86_64 kernels for hosts from Debian's own kernel source, as far as the cache lacks them."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from guest_images import kernel_config
from guest_images.cache import Cache, Log, publish_file, publish_folder, read_json, to_json
from guest_images.catalogue import suite
from guest_images.kernel_config import (
    KERNELS,
    KernelSpec,
    check_config,
    fragment,
    kernel_spec,
    symbols,
    without_selects,
)
from guest_images.packages import InputRecord, PackageSet, Tree, find_tree, manifest_digest, provide_tree
from harness.deadline import Deadline
from harness.errors import DeadlineExpired, Evidence, MachineryMissing, SetupBroken
from harness.hosts.host import Host
from harness.hosts.link import LocalLink
from harness.hosts.spec import LOCAL
from harness.process import log_tail

SUITE, SOURCE = "debian-13", "linux-source-6.12"
"""Where the source comes from: Linux of the stable release, so that only the configuration is special."""

BUILD_SECONDS = 3600.0
"""Limit for one kernel, from the archive to the image."""

# Programs that kernels are compiled with (Documentation/process/changes.rst), by the package that has them.
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
# objtool, a program that x86 kernels are compiled with, reads ELF files by this one.
_HEADER, _HEADER_PACKAGE = "gelf.h", "libelf-dev"
# All that compilers find in their environment, beside PATH: the same input gives the same kernel, whoever
# compiles it, and when, and whatever ARCH, CROSS_COMPILE or KCFLAGS a kernel developer has there.
_ENVIRONMENT = (
    "KBUILD_BUILD_TIMESTAMP=1970-01-01",
    "KBUILD_BUILD_USER=snapproof",
    "KBUILD_BUILD_HOST=snapproof",
    "LC_ALL=C",
)
_LOG = "build.log"


@dataclass(frozen=True)
class BuiltKernel:
    """A kernel that was compiled.

    Attributes:
        spec: what it is.
        image: its bzImage; nothing is a module.
        release: what `uname -r` says in it.
    """

    spec: KernelSpec
    image: Path
    release: str


def build_kernel(
    name: str, cache: Cache, log: Log, *, mirror: str | None = None, refresh: bool = False
) -> BuiltKernel:
    """Return a kernel, compiled where the cache lacks it from this source, configuration and compiler.

    Raises:
        UsageError: no such name.
        MachineryMissing: a program to compile kernels with is not there. Others as `packages.provide_tree`.
        SetupBroken: the source does not take the configuration or does not compile.
    """
    spec = kernel_spec(name)
    toolchain = _toolchain()
    wanted = _package_set()
    source = None if refresh else find_tree(wanted, cache)
    source = source or provide_tree(wanted, cache, log, mirror=mirror, refresh=refresh)
    manifest = _manifest(spec, source, toolchain)
    final = _final(spec, manifest, cache)
    if not final.is_dir():
        require_tools(missing_tools())
        _build(spec, source, manifest, final, cache, log)
    return _built(spec, final)


def built_kernels(cache: Cache) -> dict[KernelSpec, BuiltKernel | None]:
    """Every kernel of the catalogue, with None for those that are not in the cache; compiles nothing."""
    source = find_tree(_package_set(), cache)
    if source is None or shutil.which("gcc") is None or shutil.which("ld") is None:
        return dict.fromkeys(KERNELS)
    toolchain = _toolchain()
    finals = {spec: _final(spec, _manifest(spec, source, toolchain), cache) for spec in KERNELS}
    return {spec: _built(spec, final) if final.is_dir() else None for spec, final in finals.items()}


def missing_tools() -> list[str]:
    """The packages, sorted, of what this machine lacks to compile a kernel."""
    missing = {package for program, package in _TOOLS.items() if shutil.which(program) is None}
    if "gcc" not in missing:
        preprocess = ["gcc", "-E", "-xc", "-include", _HEADER, "-o", "/dev/null", "/dev/null"]
        if subprocess.run(preprocess, capture_output=True, check=False).returncode:
            missing.add(_HEADER_PACKAGE)
    return sorted(missing)


def require_tools(missing: list[str]) -> None:
    """Raise MachineryMissing where packages are missing, with what to install."""
    if missing:
        raise MachineryMissing(
            "A kernel cannot be compiled on this machine as it is; install what is missing: "
            f"'apt-get install {' '.join(missing)}'."
        )


def _toolchain() -> str:
    require_tools([_TOOLS[program] for program in ("gcc", "ld") if shutil.which(program) is None])
    machine = _said(["gcc", "-dumpmachine"])
    if not machine.startswith("x86_64"):
        raise MachineryMissing(f"The 'gcc' here compiles for {machine}, and kernels are for x86_64.")
    return f"{_said(['gcc', '--version'])}, {_said(['ld', '--version'])}"


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return (done.stdout.splitlines() or [""])[0]


def _package_set() -> PackageSet:
    # What a source package depends on is for those who compile it by hand.
    return PackageSet("kernel-source", suite(SUITE), (SOURCE,), (SOURCE,))


def _manifest(spec: KernelSpec, source: Tree, toolchain: str) -> tuple[InputRecord, ...]:
    recipe = hashlib.sha256(fragment(spec).encode())
    for file in (__file__, kernel_config.__file__):
        recipe.update(Path(file).read_bytes())
    compiler = hashlib.sha256(toolchain.encode()).hexdigest()
    return (
        *source.manifest,
        InputRecord("kernel recipe", recipe.hexdigest()[:12], recipe.hexdigest()),
        InputRecord("kernel compiler", toolchain, compiler),
    )


def _final(spec: KernelSpec, manifest: tuple[InputRecord, ...], cache: Cache) -> Path:
    return cache.path("kernels", f"{spec.name}-{manifest_digest(manifest)[:12]}")


def _built(spec: KernelSpec, final: Path) -> BuiltKernel:
    description = read_json(final / "manifest.json")
    return BuiltKernel(spec, final / f"bzImage-{spec.name}", str(description["release"]))


def _build(
    spec: KernelSpec, source: Tree, manifest: tuple[InputRecord, ...], final: Path, cache: Cache, log: Log
) -> None:
    with cache.lock("kernels", log), cache.staging("kernels") as staging:
        if final.is_dir():
            return
        log(f"Compiling the kernel '{spec.name}' ({source.manifest[0].version}); this takes minutes.")
        for symbol in spec.not_selected:
            log(f"The line of its arch/x86/Kconfig that selects {symbol} is taken out.")
        begun = time.monotonic()
        made = staging / "made"
        made.mkdir()
        build_log = made / _LOG
        build_log.touch()
        # Where somebody finds it if all this comes to nothing.
        kept = cache.path("kernels", f"{spec.name}.log")
        try:
            release = compile_kernel(spec, source, staging / "linux", made, kept)
        finally:
            publish_file(kept, build_log.read_bytes())
        description = {"release": release, "inputs": [asdict(record) for record in manifest]}
        (made / "manifest.json").write_bytes(to_json(description))
        publish_folder(made, final)
        log(f"Compiled in {time.monotonic() - begun:.0f} s.")


def compile_kernel(spec: KernelSpec, source: Tree, linux: Path, made: Path, kept: Path) -> str:
    """Compile a kernel, whatever is cached; returns its release.

    Args:
        spec: the kernel.
        source: has the archive with the source.
        linux: a folder to be made for it and for what is compiled.
        made: a folder for image, configuration and log.
        kept: where the log will be.

    Raises:
        SetupBroken: the configuration did not come out as wanted, or a step failed or took too long.
    """
    with Host(LOCAL, LocalLink()) as host, (made / _LOG).open("wb", buffering=0) as file:
        steps = _Steps(spec, host, file, Deadline(BUILD_SECONDS), kept)
        _configure(spec, source, linux, steps)
        steps.run(*_make(linux), "bzImage")
    shutil.copy(linux / ".config", made / "config")
    shutil.copy(linux / "arch/x86/boot/bzImage", made / f"bzImage-{spec.name}")
    return (linux / "include/config/kernel.release").read_text().strip()


def unpack_kernel(name: str, linux: Path, cache: Cache, log: Log) -> None:
    """Unpack and configure the source of a kernel of the catalogue, to be changed and compiled by others.

    Args:
        name: of the kernel.
        linux: a folder to be made; the log of it all is `linux` with `.log` behind it.
        cache: where the source is, or will be.
        log: told what takes time.

    Raises:
        As build_kernel.
    """
    spec = kernel_spec(name)
    require_tools(missing_tools())
    source = provide_tree(_package_set(), cache, log)
    said = linux.with_name(f"{linux.name}.log")
    with Host(LOCAL, LocalLink()) as host, said.open("wb", buffering=0) as file:
        _configure(spec, source, linux, _Steps(spec, host, file, Deadline(BUILD_SECONDS), said))


def _configure(spec: KernelSpec, source: Tree, linux: Path, steps: _Steps) -> None:
    linux.mkdir()
    wanted, config = fragment(spec), linux / ".config"
    archive = source.root / "usr/src" / f"{SOURCE}.tar.xz"
    steps.run("tar", "-xf", str(archive), "-C", str(linux), "--strip-components=1")
    kconfig = linux / "arch/x86/Kconfig"
    kconfig.write_text(without_selects(kconfig.read_text(), spec.not_selected))
    steps.run(*_make(linux), "tinyconfig")
    config.write_text(config.read_text() + wanted)
    steps.run(*_make(linux), "olddefconfig")
    check_config(symbols(wanted), config.read_text())


def _make(linux: Path) -> tuple[str, ...]:
    return "make", "-C", str(linux), f"-j{len(os.sched_getaffinity(0))}"


@dataclass(frozen=True)
class _Steps:
    """Commands of one compilation: what they say goes into a log, and all that they start ends with us."""

    spec: KernelSpec
    host: Host
    log: io.FileIO
    deadline: Deadline
    kept: Path

    def run(self, *command: str) -> None:
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
