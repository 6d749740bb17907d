"""Builds a planted fault and a QEMU wrapper that runs with it."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

from guest_images.agent_build import find_compiler
from guest_images.cache import Cache, publish_file
from harness.errors import Evidence, SetupBroken, UsageError

_SOURCES = Path(__file__).parent
_FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-nostdlib", "-fno-stack-protector")
_COMPILE_SECONDS = 300.0


def fault_names() -> tuple[str, ...]:
    """The live planted faults that there are, each the name of a C file in this folder."""
    return tuple(sorted(path.stem for path in _SOURCES.glob("*.c")))


def faulty_qemu(fault: str, qemu: Path, cache: Cache, log: Callable[[str], None]) -> Path:
    """A wrapper script that runs `qemu` with a fault planted, for use as `--qemu`.

    Args:
        fault: one of `fault_names()`.
        qemu: the executable to break.
        cache: where the library and the wrapper are kept.
        log: told what takes time.

    Raises:
        UsageError: there is no such fault.
        MachineryMissing, SetupBroken: it cannot be compiled.
    """
    if fault not in fault_names():
        raise UsageError(f"There is no planted fault '{fault}', only {', '.join(fault_names())}.")
    library = _library(_SOURCES / f"{fault}.c", cache, log)
    text = (
        "#!/bin/sh\n"
        f"LD_PRELOAD={shlex.quote(str(library))}\n"
        "export LD_PRELOAD\n"
        f'exec {shlex.quote(str(qemu))} "$@"\n'
    )
    wrapper = library.with_name(f"qemu-{hashlib.sha256(text.encode()).hexdigest()[:12]}")
    if not wrapper.exists():
        publish_file(wrapper, text.encode(), 0o755)
    return wrapper


def _library(source: Path, cache: Cache, log: Callable[[str], None]) -> Path:
    compiler = find_compiler()
    content = source.read_bytes() + " ".join((*compiler.command, compiler.version, *_FLAGS)).encode()
    digest = hashlib.sha256(content).hexdigest()[:12]
    library = cache.path("faults", f"{source.stem}-{digest}", f"{source.stem}.so")
    if library.exists():
        return library
    log(f"Compiling the planted fault '{source.stem}'.")
    with cache.lock("faults", log), cache.staging("faults") as staging:
        output = staging / library.name
        command = [*compiler.command, *_FLAGS, "-o", str(output), str(source)]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_COMPILE_SECONDS, check=False
        )
        if done.returncode != 0:
            raise SetupBroken(
                f"The planted fault '{source.stem}' does not compile.",
                Evidence(command, done.returncode, (done.stdout + done.stderr)[-2000:]),
            )
        publish_file(library, output.read_bytes(), 0o755)
    return library
