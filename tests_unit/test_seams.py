"""Contract: only the command itself reads the command line and chooses what holds without an option."""

from __future__ import annotations

import ast
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_CODE = ("harness", "guest_images", "validators", "tests_functional", "snapproof")
_COMMAND = Path("snapproof/cli")
# Programs of their own, which are started as processes.
_PROGRAMS = {Path("tests_functional/kernel/__main__.py"), Path("tests_functional/kernel/explore/__main__.py")}


def _imports_argparse(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        if "argparse" in names:
            return True
    return False


def _readers() -> set[Path]:
    files = [path for room in _CODE for path in (_ROOT / room).rglob("*.py")]
    assert len(files) > 200
    return {path.relative_to(_ROOT) for path in files if _imports_argparse(path)}


def test_nobody_below_the_command_sees_its_arguments() -> None:
    """Code below snapproof/cli gets frozen options, never an `argparse.Namespace`."""
    below = {path for path in _readers() if not path.is_relative_to(_COMMAND)}
    assert below - _PROGRAMS == set()


def test_one_place_chooses_the_way_into_a_guest() -> None:
    """A way in other than SSH is a module and a choice in `open_shell`; VM hosts are reached over SSH.

    The guest of a VM that is attached is somebody else's, so its way in is chosen by the command.
    """
    openers = {
        path.relative_to(_ROOT)
        for room in _CODE
        for path in (_ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "SshShell"
    }
    attached = Path("snapproof/cli/attach_guest.py")
    assert openers == {Path("tests_functional/lib/guest.py"), Path("harness/hosts/vm.py"), attached}


def test_nobody_below_the_command_imports_it() -> None:
    """Modules below the command do not import those of the command, which parse and print."""
    below = [path for room in _CODE for path in (_ROOT / room).rglob("*.py")]
    guilty = [
        path
        for path in below
        if not path.relative_to(_ROOT).is_relative_to(_COMMAND)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("snapproof.cli")
    ]
    assert guilty == []


def test_only_the_command_chooses_the_default_cache() -> None:
    """All other code uses the cache that it is given, so that `--cache` holds for all that a command does."""
    files = [path for room in _CODE for path in (_ROOT / room).rglob("*.py")]
    naming = {path.relative_to(_ROOT) for path in files if "default_cache_folder" in path.read_text()}
    assert naming == {
        Path("guest_images/cache.py"), Path("snapproof/cli/command.py"), Path("snapproof/runs/stack.py")
    }  # fmt: skip
