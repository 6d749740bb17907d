"""Copy the tree to a folder in which a module can be replaced, with no stale bytecode."""

from __future__ import annotations

import compileall
import hashlib
import os
import py_compile
import shutil
import subprocess
from pathlib import Path

_OWN_FOLDER = "tests_unit/mutants/"


def tree_files(root: Path) -> list[str]:
    """Return the files of the tree at `root` that Git knows or would know."""
    command = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted({name for name in listed if name and (root / name).is_file()})


def digest(root: Path, names: list[str]) -> str:
    """Return a digest of the names and contents of some files."""
    total = hashlib.sha256()
    for name in sorted(names):
        content = (root / name).read_bytes()
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()[:16]


def code_digest(root: Path) -> str:
    """Return a digest of all that tests can depend on but themselves: no pages, and not this tool."""
    return digest(root, [name for name in tree_files(root) if not _is_apart(name)])


def _is_apart(name: str) -> bool:
    path = Path(name)
    is_test = name.startswith("tests_unit/") and path.name.startswith("test_")
    return is_test or path.suffix == ".md" or name.startswith(_OWN_FOLDER)


def copy_tree(root: Path, to: Path) -> None:
    """Copy the tree, and compile it so that Python compares the source's hash on each import.

    The usual bytecode files are valid as long as time and size of the source are the same, which they can be
    for a mutant.
    """
    for name in tree_files(root):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, to / name, follow_symlinks=False)
    compileall.compile_dir(to, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)


def environment(tree: Path) -> dict[str, str]:
    """Return the environment in which `tree` is the code that is imported, in child processes too."""
    return os.environ | {
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        # Threads would not survive the fork.
        "OPENBLAS_NUM_THREADS": "1",
    }
