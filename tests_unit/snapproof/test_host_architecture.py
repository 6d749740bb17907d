"""Contract: packages, guests, machines and the cache are of the host's architecture."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from harness.qemu.architectures import AARCH64, ARCHITECTURES, X86_64, Architecture, host_architecture

# Runs in a Python of its own, since the architecture is found once, when the modules are imported.
_ON_HOST = """
import json, os, platform, sys
machine = sys.argv[1]
platform.machine = lambda: machine
os.environ.pop("SNAPPROOF_CACHE", None)
from guest_images.cache import default_cache_folder
from guest_images.catalogue import guest_spec, guests_of_others, qemu_spec, suite, userland_suite
from guest_images.guests.kernel_modules import kernel_packages
from guest_images.qemu.builds import _package_set
from snapproof.cli.arguments.run import add_parser
from snapproof.runs.guest_choice import chosen_guest, guest_architecture
from snapproof.runs.options import StackOptions
from harness.qemu.architectures import DEFAULT_ARCHITECTURE
from harness.qemu.configuration import MachineConfig
from harness.qemu.probe import DEFAULT_EXECUTABLE
from tests_functional.machines.rows import ROWS
import argparse
add_parser(argparse.ArgumentParser().add_subparsers(), "")
spec = qemu_spec("debian-13")
print(json.dumps({
    "default": DEFAULT_ARCHITECTURE.name,
    "qemu": DEFAULT_EXECUTABLE,
    "packages": _package_set(spec, spec.emulates).packages,
    "built for": [spec.architecture.debian, userland_suite().architecture.debian],
    "userland": userland_suite().name,
    "kernel": kernel_packages(suite("debian-13")).packages,
    "machine": MachineConfig.__dataclass_fields__["machine"].default,
    "bare": [chosen_guest(StackOptions(guest="bare")), guest_architecture(StackOptions(guest="bare")).name],
    "guest": guest_architecture(StackOptions()).name,
    "others": sorted({one.architecture.name for one in guests_of_others()}),
    "cache": default_cache_folder().name,
    "rows": [row.name for row in ROWS],
}))
"""


def _on_host(machine: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", _ON_HOST, machine], capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(done.stdout)


def test_host_by_its_machine_name() -> None:
    """A host that is not described here runs guests of x86_64, as every host can."""
    assert [host_architecture(entry.name) for entry in ARCHITECTURES] == list(ARCHITECTURES)
    assert host_architecture("vax") is host_architecture("") is X86_64


@pytest.mark.parametrize("host", [X86_64, AARCH64], ids=["x86_64", "aarch64"])
def test_everything_is_of_the_host(host: Architecture) -> None:
    """QEMU, its packages, busybox, kernel, machine type and both default guests are of the host."""
    found = _on_host(host.name)
    assert (found["default"], found["qemu"]) == (host.name, host.qemu)
    assert tuple(found["packages"]) == host.qemu_packages
    assert found["built for"] == [host.debian, host.debian]
    assert found["kernel"] == [host.kernel_package]
    assert found["machine"] == host.machine
    assert found["bare"] == ["bare", host.name]
    assert found["guest"] == host.name
    assert host.name not in found["others"]
    assert all(one.name in [*found["others"], host.name] for one in (X86_64, AARCH64))


def test_cache_of_an_architecture() -> None:
    """A shared home folder has a cache for each architecture; one package index serves all of a cache."""
    caches = {name: _on_host(name)["cache"] for name in ("x86_64", "aarch64", "s390x")}
    assert caches == {"x86_64": "snapproof", "aarch64": "snapproof-aarch64", "s390x": "snapproof-s390x"}
    assert _on_host("aarch64")["userland"] == "debian-13"


def test_machines_of_a_profile() -> None:
    """Rows of other machine types are those that the host's architecture has."""
    assert "machines.q35" in _on_host("x86_64")["rows"]
    rows = _on_host("aarch64")["rows"]
    assert "machines.virt-6.0" in rows and "machines.q35" not in rows
