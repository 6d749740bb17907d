"""Compiles a host's standard library and our programs for its Python here, and not in it at every boot."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from guest_images.cache import publish_folder
from guest_images.packages.loader import find_loader
from guest_images.programs import run_program
from guest_images.provisioning import Provisioning
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


_SOURCES_PROGRAM = """\
import importlib.util, os, py_compile, sys
sources, target = sys.argv[1:]
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
for folder, _, names in os.walk(sources):
    for name in names:
        source = os.path.join(folder, name)
        place = os.path.relpath(source, sources)
        compiled = os.path.join(target, importlib.util.cache_from_source(place))
        py_compile.compile(source, compiled, place, doraise=True, invalidation_mode=mode)
"""


def compiled_modules(root: Path, architecture: Architecture) -> dict[str, bytes]:
    """Return the compiled modules of the Python in unpacked packages, by path below their root.

    Args:
        root: root of the packages.
        architecture: the processor that they are built for; nothing is compiled for one that cannot run here.

    Raises:
        SetupBroken: the packages' Python does not run, or does not compile its library.
    """
    if not _runs_here(root, architecture):
        return {}
    done = _python(root, architecture, "compile its library", _PROGRAM, [str(root), *_MODULES])
    if done.returncode:
        raise SetupBroken(
            f"The Python of the packages in '{root}' does not compile its library; delete that folder and "
            "run again.",
            Evidence(done.args[:4], done.returncode, done.stderr),
        )
    answer: dict[str, str] = json.loads(done.stdout)
    return {path: base64.b64decode(text) for path, text in sorted(answer.items())}


def compiled_sources(
    sources: Mapping[str, bytes], root: Path, architecture: Architecture, provisioning: Provisioning
) -> dict[str, Path]:
    """Return compiled files for sources that are sent to a host, by their places beside these sources.

    Args:
        sources: Python files by their relative paths.
        root: root of the unpacked packages with the host's Python.
        architecture: the processor that they are built for; nothing is compiled for one that cannot run here.
        provisioning: its cache keeps what was compiled.

    Raises:
        SetupBroken: the packages' Python does not run, or does not compile a source.
    """
    if not _runs_here(root, architecture):
        return {}
    state = hashlib.sha256(f"{root.parent.name} {_SOURCES_PROGRAM}".encode())
    for path, content in sorted(sources.items()):
        state.update(f"{path} {len(content)}\n".encode() + content)
    final = provisioning.cache.path("compiled", state.hexdigest()[:16])
    with provisioning.locked_staging("compiled") as staging:
        if not final.is_dir():
            _compile_sources(sources, root, architecture, staging)
            publish_folder(staging / "compiled", final)
    return {str(path.relative_to(final)): path for path in sorted(final.rglob("*.pyc"))}


def _compile_sources(
    sources: Mapping[str, bytes], root: Path, architecture: Architecture, staging: Path
) -> None:
    for path, content in sources.items():
        place = staging / "sources" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    folders = [str(staging / "sources"), str(staging / "compiled")]
    done = _python(root, architecture, "compile programs for hosts", _SOURCES_PROGRAM, folders)
    if done.returncode:
        raise SetupBroken(
            f"The Python of the packages in '{root}' does not compile our programs for hosts; this is a "
            "defect of snapproof.",
            Evidence(done.args[:4], done.returncode, done.stderr),
        )


def _runs_here(root: Path, architecture: Architecture) -> bool:
    return architecture is DEFAULT_ARCHITECTURE and any(root.glob(_FOLDERS))


def _python(
    root: Path, architecture: Architecture, task: str, program: str, words: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    """Run a program with the Python of unpacked packages."""
    name = f"usr/bin/{sorted(root.glob(_FOLDERS))[-1].name}"
    # It finds its library by the variable, since what runs is the loader.
    environment = {"PATH": os.defpath, "PYTHONHOME": str(root / "usr"), "PYTHONHASHSEED": "0"}
    command = [*find_loader(root, architecture).command(root, name), "-B", "-c", program, *words]
    return run_program(name, task, command, _SECONDS, environment=environment)
