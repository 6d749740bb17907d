"""Compiles the native core into the cache; set-up runs `python -m validators.native.build`."""

from __future__ import annotations

import sys
from pathlib import Path

from guest_images.agent.build import find_compiler, run_compiler
from guest_images.cache import Cache, default_cache_folder, publish_file
from guest_images.provisioning import Provisioning
from harness.errors import SnapproofError
from harness.qemu.architectures import DEFAULT_ARCHITECTURE
from harness.status import EXIT_ERROR
from validators.native.library import FLAGS, SOURCES, core_path, libc_name

# zig checks for undefined behaviour by itself, with functions that are not in a library.
_ZIG_FLAGS = ("-fno-sanitize=all",)


def build_core(provisioning: Provisioning) -> Path:
    """Return the native core; compile it if this cache has none that fits the sources and this machine.

    Raises:
        MachineryMissing: there is no compiler. SetupBroken: the sources do not compile.
    """
    path = core_path(provisioning.cache.folder)
    if path.exists():
        return path
    compiler = find_compiler(target=f"{DEFAULT_ARCHITECTURE.name}-linux-{libc_name()}")
    zig = _ZIG_FLAGS if compiler.version.startswith("zig") else ()
    provisioning.log("Compiling the native core of the validator.")
    with provisioning.locked_staging("native") as staging:
        output = staging / path.name
        code = map(str, sorted(SOURCES.glob("*.c")))
        run_compiler("native core", [*compiler.command, *FLAGS, *zig, "-o", str(output), *code])
        publish_file(path, output.read_bytes(), 0o755)
    return path


def main() -> int:
    """Build it, and return an exit code; without a compiler everything works, only slower."""
    try:
        build_core(Provisioning(Cache(default_cache_folder()), lambda line: print(line, file=sys.stderr)))
    except SnapproofError as error:
        print(f"snapproof: {error.sentence}", file=sys.stderr)
        return EXIT_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
