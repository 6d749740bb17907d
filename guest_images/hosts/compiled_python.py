"""Compiles the standard library of a host's Python here, since an emulated host would do so at every boot."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

from guest_images.packages.loader import find_loader
from guest_images.programs import run_program
from harness.errors import Evidence, SetupBroken
from harness.qemu.architectures import DEFAULT_ARCHITECTURE, Architecture

_SECONDS = 300.0
_FOLDERS = "usr/lib/python3.*"
# What the programs import that we send to hosts, and what these import. A module that is not compiled here is
# compiled by the host, so a name that is missing costs a host some time and nothing else.
_MODULES = (
    "argparse", "array", "contextlib", "ctypes", "dataclasses", "enum", "fcntl", "fnmatch", "functools",
    "importlib", "json", "pathlib", "platform", "random", "re", "select", "selectors", "shlex", "shutil",
    "signal", "site", "socket", "statistics", "struct", "subprocess", "tarfile", "tempfile", "termios",
    "threading", "traceback", "types", "typing",
)  # fmt: skip
# A hash that is not checked: files of the image have another time than those of the packages.
_PROGRAM = """\
import base64, importlib, json, os, py_compile, sys, tempfile
root, names = sys.argv[1], sys.argv[2:]
for name in names:
    importlib.import_module(name)
found = {}
with tempfile.TemporaryDirectory() as folder:
    target = os.path.join(folder, "compiled")
    for module in list(sys.modules.values()):
        source = getattr(module, "__file__", None) or ""
        cached = getattr(module, "__cached__", None)
        if source.startswith(root) and source.endswith(".py") and cached:
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            place = os.path.relpath(source, root)
            py_compile.compile(source, target, "/" + place, doraise=True, invalidation_mode=mode)
            with open(target, "rb") as file:
                found[os.path.relpath(cached, root)] = base64.b64encode(file.read()).decode()
json.dump(found, sys.stdout)
"""


def compiled_modules(root: Path, architecture: Architecture) -> dict[str, bytes]:
    """Return the compiled modules of the Python in unpacked packages, by path below their root.

    Args:
        root: root of the packages.
        architecture: the processor that they are built for; nothing is compiled for one that cannot run here.

    Raises:
        SetupBroken: the packages' Python does not run, or does not compile its library.
    """
    folders = sorted(root.glob(_FOLDERS))
    if architecture is not DEFAULT_ARCHITECTURE or not folders:
        return {}
    program = f"usr/bin/{folders[-1].name}"
    # It finds its library by the variable, since what runs is the loader.
    environment = {"PATH": os.defpath, "PYTHONHOME": str(root / "usr"), "PYTHONHASHSEED": "0"}
    command = [*find_loader(root, architecture).command(root, program), "-B", "-c", _PROGRAM]
    done = run_program(
        program, "compile its library", [*command, str(root), *_MODULES], _SECONDS, environment=environment
    )
    if done.returncode:
        raise SetupBroken(
            f"The Python of the packages in '{root}' does not compile its library; delete that folder and "
            "run again.",
            Evidence(command[:4], done.returncode, done.stderr),
        )
    answer: dict[str, str] = json.loads(done.stdout)
    return {path: base64.b64decode(text) for path, text in sorted(answer.items())}
