"""Compiles the Linux guest's agent, the program that writes patterns there, into one static executable."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from guest_images.cache import Cache, publish_file
from guest_images.packages.unpacked import InputRecord
from guest_images.programs import first_output_line, run_program
from guest_images.provisioning import Provisioning
from harness.errors import Evidence, MachineryMissing, SetupBroken
from harness.qemu.architectures import DEFAULT_ARCHITECTURE, Architecture

SOURCES = Path(__file__).parent

_FOLDERS = ("core", "linux")
# -s: symbols would be memory that the agent cannot lock, 1 MiB of them from ziglang.
# -falign-functions: without it the order of the source files decides where the writer's loops lie, and with
# that its speed (gcc 12: 1.3 to 2.1 million pages per second).
FLAGS = ("-O2", "-static", "-s", "-falign-functions=32", "-Wall", "-Wextra", "-Werror", "-pthread")

COMPILE_SECONDS = 300.0
"""Time limit of the compiler; ziglang builds its C library first, which took 40 s on two cores."""


@dataclass(frozen=True)
class Compiler:
    """A C compiler for static Linux programs.

    Attributes:
        command: the beginning of its command line.
        version: the first line of its own version text.
    """

    command: tuple[str, ...]
    version: str


@dataclass(frozen=True)
class AgentBuild:
    """The agent, compiled or to be compiled.

    Attributes:
        executable: static, for the guest's processor; exists once `compile_agent` has returned.
        records: its sources and compiler, for a manifest.
        compiler: the compiler to use.
        folder: the folder that includes are relative to.
        sources: its C files.
    """

    executable: Path
    records: tuple[InputRecord, ...]
    compiler: Compiler
    folder: Path
    sources: tuple[Path, ...]


def find_compiler(
    architecture: Architecture = DEFAULT_ARCHITECTURE,
    target: str = "",
    native: Iterable[tuple[str, tuple[str, ...]]] = (),
) -> Compiler:
    """Return the machine's own `cc` if it has the right target, else the one in the Python package ziglang.

    Args:
        architecture: the processor that it is to compile for.
        target: the target of the latter, by default the one for static programs of Linux.
        native: further architectures whose `cc` will do, each with the flags that it needs.

    Raises:
        MachineryMissing: there is neither. SetupBroken: it does not say what it is.
    """
    cc = shutil.which("cc")
    machine = first_output_line([cc, "-dumpmachine"]) if cc else ""
    for name, flags in ((architecture.name, ()), *native):
        if cc and machine.startswith(f"{name}-"):
            return Compiler((cc, *flags), first_output_line([cc, "--version"]))
    if importlib.util.find_spec("ziglang"):
        zig = (sys.executable, "-m", "ziglang")
        version = f"zig {first_output_line([*zig, 'version'])}"
        return Compiler((*zig, "cc", "-target", target or architecture.compiler_target), version)
    raise MachineryMissing(
        "There is no C compiler for the guest's agent; install the package 'gcc' where this machine has the "
        f"guest's processor ({architecture.name}), or snapproof's extra 'cc', which has one for all: "
        f"{_install_extra('cc')}"
    )


def _install_extra(extra: str) -> str:
    """Return the command that adds one of snapproof's extras to the Python that runs."""
    checkout = Path(__file__).parents[2]
    of_checkout = (checkout / "pyproject.toml").exists()
    what = f"--editable '{checkout}[{extra}]'" if of_checkout else f"'snapproof[{extra}]'"
    return f"'{sys.executable}' -m pip install {what}"


def plan_agent(
    cache: Cache, sources: Path = SOURCES, architecture: Architecture = DEFAULT_ARCHITECTURE
) -> AgentBuild:
    """Plan a build of the agent: its sources, compiler and executable. Nothing is compiled.

    Args:
        cache: where executables are kept.
        sources: the folder with the agent's folders `core` and `linux`.
        architecture: the guest's processor.

    Raises:
        MachineryMissing: no compiler. SetupBroken: no sources, or a compiler that does not answer.
    """
    files = [path for folder in _FOLDERS for path in sorted((sources / folder).glob("*.[ch]"))]
    code = tuple(path for path in files if path.suffix == ".c")
    if not code:
        raise SetupBroken(f"The agent's sources are not in '{sources}'.")
    compiler = find_compiler(architecture)
    source = source_digest(files, sources)
    digest = digest_of(source, architecture.name, compiler.version, *FLAGS)
    records = (
        InputRecord("agent source", source[:12], source),
        InputRecord("agent compiler", compiler.version, digest),
    )
    executable = cache.path("agent", digest[:12], "snapproof-agent")
    return AgentBuild(executable, records, compiler, sources, code)


def compile_agent(build: AgentBuild, provisioning: Provisioning) -> Path:
    """Return the agent's executable; compile it only if sources, compiler or flags have changed.

    Raises:
        SetupBroken: the sources do not compile, or the compiler does not end.
    """
    if not build.executable.exists():
        with provisioning.locked_staging("agent") as staging:
            if not build.executable.exists():
                provisioning.log("Compiling the agent.")
                compiled = _compile(build, staging)
                publish_file(build.executable, compiled.read_bytes(), 0o755)
    return build.executable


def _compile(build: AgentBuild, folder: Path) -> Path:
    output = folder / "snapproof-agent"
    command = [*build.compiler.command, *FLAGS, "-I", str(build.folder), "-o", str(output)]
    command += map(str, build.sources)
    run_compiler("agent", command)
    return output


def run_compiler(what: str, command: Sequence[str]) -> None:
    """Run the compiler; `what` names in messages what it makes.

    Raises:
        SetupBroken: the sources do not compile, or the compiler does not end.
    """
    done = run_program("The compiler", f"finish the {what}", command, COMPILE_SECONDS)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        first = next((line for line in done.stderr.splitlines() if "error:" in line), "no message")
        raise SetupBroken(
            f"The {what} does not compile: {first.strip()}.", Evidence(command, done.returncode, tail)
        )


def source_digest(files: Sequence[Path], folder: Path) -> str:
    """Return a SHA256 in hex over the names, relative to a folder, and the content of files."""
    return _digest(*(part for path in files for part in (_name(path, folder), path.read_bytes())))


def digest_of(*words: str) -> str:
    """Return a SHA256 in hex over words."""
    return _digest(*(word.encode() for word in words))


def _name(path: Path, folder: Path) -> bytes:
    return path.relative_to(folder).as_posix().encode()


def _digest(*parts: bytes) -> str:
    # Each part is hashed by itself first, so that moving a byte between parts changes the result.
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
