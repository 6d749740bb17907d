"""Contract: ci/bootstrap.sh uses the environment of its own checkout, also in a copied one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
# As much of Python as the script uses: `-m venv FOLDER`, and pip, which makes the program.
_PYTHON = """#!/bin/sh
case "$*" in
*"-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "VIRTUAL_ENV=\\"$3\\"" >"$3/bin/activate" ;;
*"-m pip"*)
    bin=$(dirname "$0")
    printf '#!/bin/sh\\necho "%s runs $*"\\n' "$(dirname "$(dirname "$bin")")" >"$bin/snapproof"
    chmod +x "$bin/snapproof" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with nothing but ci/, in which ci/smoke has run once."""
    folder = tmp_path / "A"
    shutil.copytree(_ROOT / "ci", folder / "ci")
    shutil.copy(_ROOT / "pyproject.toml", folder)
    (tmp_path / "python").write_text(_PYTHON)
    (tmp_path / "python").chmod(0o755)
    assert _smoke(folder).startswith(f"{folder} runs run")
    return folder


def _smoke(checkout: Path, place: Path | None = None, **variables: str) -> str:
    """Run ci/smoke by a relative path and return its output."""
    environment = {**os.environ, "PYTHON": str(checkout.parent / "python"), **variables}
    run = subprocess.run(
        ["ci/smoke"], cwd=place or checkout, env=environment, capture_output=True, text=True, check=True
    )
    return run.stdout


@pytest.mark.parametrize("original", ["stays", "goes"])
def test_copied_checkout_makes_its_own(checkout: Path, original: str) -> None:
    """A copy runs its own code, and the original's environment is left alone."""
    copy = checkout.parent / "B"
    shutil.copytree(checkout, copy, symlinks=True)
    if original == "goes":
        shutil.rmtree(checkout)
    assert _smoke(copy).startswith(f"{copy} runs run")
    if original == "stays":
        assert _smoke(checkout).startswith(f"{checkout} runs run")


def test_nothing_is_installed_twice(checkout: Path) -> None:
    """A second run installs nothing."""
    program = checkout / ".venv" / "bin" / "snapproof"
    program.write_text("#!/bin/sh\necho kept\n")
    assert _smoke(checkout) == "kept\n"


def test_exported_cdpath(checkout: Path) -> None:
    """CDPATH, by which `cd` may go elsewhere and print where, does not matter."""
    assert _smoke(checkout, CDPATH=str(checkout)).startswith(f"{checkout} runs run")
