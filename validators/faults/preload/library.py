"""Builds a library from a C file, and a wrapper script that runs QEMU with it preloaded."""

from __future__ import annotations

import hashlib
import mmap
import shlex
from collections.abc import Mapping
from pathlib import Path

from guest_images.agent.build import COMPILE_SECONDS, find_compiler
from guest_images.cache import publish_file
from guest_images.programs import run_program
from guest_images.provisioning import Provisioning
from harness.errors import Evidence, SetupBroken
from harness.qemu.architectures import DEFAULT_ARCHITECTURE

_HEADERS = Path(__file__).parent
_FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-nostdlib", "-fno-stack-protector")


def preloading_wrapper(
    library: Path, qemu: Path, folder: Path, environment: Mapping[str, str] | None = None
) -> Path:
    """Write a script that runs `qemu` with a library preloaded, for use as `--qemu`.

    Args:
        library: made by `preload_library()`.
        qemu: the executable.
        folder: where the script goes; it is written only if it is not there.
        environment: further variables for QEMU.
    """
    variables = {"LD_PRELOAD": str(library), **(environment or {})}
    lines = [f"{name}={shlex.quote(value)}\nexport {name}\n" for name, value in variables.items()]
    text = "#!/bin/sh\n" + "".join(lines) + f'exec {shlex.quote(str(qemu))} "$@"\n'
    wrapper = folder / f"qemu-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not wrapper.exists():
        publish_file(wrapper, text.encode(), 0o755)
    return wrapper


def preload_library(source: Path, provisioning: Provisioning) -> Path:
    """Compile a C file into the cache; it can include headers of this folder and its own.

    It runs in programs of this machine, of whose pages it has the size as HOST_PAGE_BYTES.

    Args:
        source: the C file; it must use no C library, so that one build loads into any QEMU.
        provisioning: the mirror, the cache, and the log of slow steps.

    Raises:
        MachineryMissing, SetupBroken: it cannot be compiled.
    """
    compiler = find_compiler()
    # A number, since -nostdlib leaves nothing to ask the kernel's page size with.
    flags = (*_FLAGS, *DEFAULT_ARCHITECTURE.no_library_flags, f"-DHOST_PAGE_BYTES={mmap.PAGESIZE}ull")
    headers = (*sorted(_HEADERS.glob("*.h")), *sorted(source.parent.glob("*.h")))
    texts = [path.read_bytes() for path in (source, *headers)]
    texts.append(" ".join((*compiler.command, compiler.version, *flags)).encode())
    digest = hashlib.sha256(b"\0".join(texts)).hexdigest()[:12]
    library = provisioning.cache.path("faults", f"{source.stem}-{digest}", f"{source.stem}.so")
    if library.exists():
        return library
    provisioning.log(f"Compiling the library '{source.stem}'.")
    with provisioning.locked_staging("faults") as staging:
        output = staging / library.name
        command = [*compiler.command, *flags, f"-I{_HEADERS}", "-o", str(output), str(source)]
        done = run_program("The compiler", f"finish the library '{source.stem}'", command, COMPILE_SECONDS)
        if done.returncode != 0:
            raise SetupBroken(
                f"The library '{source.stem}' does not compile.",
                Evidence(command, done.returncode, (done.stdout + done.stderr)[-2000:]),
            )
        publish_file(library, output.read_bytes(), 0o755)
    return library
