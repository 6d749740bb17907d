"""Compiles the native core into the cache."""

from __future__ import annotations

from pathlib import Path

from guest_images.agent.build import find_compiler, run_compiler
from guest_images.cache import publish_file
from guest_images.provisioning import Provisioning
from harness.errors import SetupBroken
from harness.qemu.architectures import DEFAULT_ARCHITECTURE
from validators.native.agreement import disagreements
from validators.native.library import Core
from validators.native.place import AGENT_SOURCES, FLAGS, SOURCES, core_path, libc_name

# zig checks for undefined behaviour by itself, with functions that are not in a library.
_ZIG_FLAGS = ("-fno-sanitize=all",)


def build_core(provisioning: Provisioning) -> Path:
    """Return the native core; compile it if this cache has none that fits the sources and this machine.

    Raises:
        MachineryMissing: there is no compiler.
        SetupBroken: the sources do not compile, or the result computes wrongly.
    """
    path = core_path(provisioning.cache.folder)
    if path.exists():
        return path
    compiler = find_compiler(target=f"{DEFAULT_ARCHITECTURE.name}-linux-{libc_name()}")
    zig = _ZIG_FLAGS if compiler.version.startswith("zig") else ()
    provisioning.log("Compiling the native core of the validator.")
    with provisioning.locked_staging("native") as staging:
        output = staging / path.name
        command = [*compiler.command, *FLAGS, *zig, f"-I{AGENT_SOURCES}", "-o", str(output)]
        run_compiler("native core", [*command, *map(str, sorted(SOURCES.glob("*.c")))])
        wrong = list(disagreements(Core(output)))
        if wrong:
            raise SetupBroken(
                f"The native core that '{compiler.version}' compiled computes wrongly ({', '.join(wrong)}), "
                "so it is not used; files are checked by numpy. Try another compiler."
            )
        publish_file(path, output.read_bytes(), 0o755)
    return path
