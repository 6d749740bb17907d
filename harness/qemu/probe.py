"""Probe an executable: whether it is a QEMU, its version, accelerators, capabilities and devices."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import patient
from harness.errors import Evidence, NoSubject
from harness.qemu.architectures import DEFAULT_ARCHITECTURE

_ANSWER_SECONDS = 30.0
_VERSION = re.compile(r"QEMU emulator version (\d+\.\d+\.\d+)(?: \(([^)\n]*)\))?")
# QEMU block.c bdrv_fill_options() and qapi/qapi-util.c, 7.2 to 11.1; before 6.0 another one of the latter.
_NO_DRIVER = ("Unknown driver", "does not accept value", "Invalid parameter", "not supported in this build")
DEFAULT_EXECUTABLE = DEFAULT_ARCHITECTURE.qemu


@dataclass(frozen=True)
class QemuFacts:
    """The result of probing a QEMU.

    Attributes:
        executable: absolute path.
        version: as printed by `--version`, with the distribution's package in parentheses.
        accelerators: names from `-accel help`.
        capabilities: migration capabilities that it knows; empty if it did not list them.
    """

    executable: Path
    version: str
    accelerators: tuple[str, ...]
    capabilities: tuple[str, ...] = ()


def probe_qemu(name: str | Path) -> QemuFacts:
    """Ask an executable for its version, accelerators and migration capabilities.

    Args:
        name: a path, or a program name to look up on PATH.

    Raises:
        NoSubject: there is no such executable, or its answer is not that of a QEMU.
    """
    found = shutil.which(str(name))
    if found is None:
        problem = "is not executable" if Path(name).exists() else "does not exist"
        raise NoSubject(f"The QEMU executable '{name}' {problem}; give a path or a name on PATH with --qemu.")
    executable = Path(found).absolute()
    answer = _ask(executable, "--version")
    match = _VERSION.search(answer)
    if match is None:
        raise NoSubject(
            f"'{name}' is not a QEMU: its output for '--version' has no 'QEMU emulator version'.",
            Evidence((found, "--version"), log_tail=answer[-1000:]),
        )
    package = f" ({match[2]})" if match[2] else ""
    # The list follows a heading line that ends in a colon.
    listed = _ask(executable, "-accel", "help").partition(":")[2].split()
    return QemuFacts(executable, match[1] + package, tuple(listed), _capabilities(executable))


def _capabilities(executable: Path) -> tuple[str, ...]:
    """Return what `query-migrate-capabilities` lists for machine `none`, empty if it gives no list."""
    return _listed(executable, "query-migrate-capabilities", "capability")


def machine_types(executable: Path) -> tuple[str, ...]:
    """Return the names of a QEMU's machine types, aliases included; empty if it does not list them.

    Raises:
        NoSubject: it cannot be run, or does not answer in time.
    """
    return _listed(executable, "query-machines", "name", "alias")


def cpu_models(executable: Path) -> tuple[str, ...]:
    """Return the names of a QEMU's CPU models; empty if it does not list them.

    Raises:
        NoSubject: it cannot be run, or does not answer in time.
    """
    return _listed(executable, "query-cpu-definitions", "name")


def _listed(executable: Path, query: str, *keys: str) -> tuple[str, ...]:
    """Return the values that the entries of a QMP query's answer have under some keys, for machine `none`."""
    said = "".join(json.dumps({"execute": command}) + "\n" for command in ("qmp_capabilities", query, "quit"))
    answer = _ask(
        executable, "-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio", said=said
    )
    for line in answer.splitlines():
        try:
            found = json.loads(line).get("return")
            if isinstance(found, list):
                first = [str(entry[keys[0]]) for entry in found]
                return (*first, *(str(entry[key]) for key in keys[1:] for entry in found if key in entry))
        except (ValueError, AttributeError, TypeError, KeyError):
            # Not a QMP message: a wrapper around QEMU may print anything.
            continue
    return ()


def has_device(executable: Path, name: str) -> bool:
    """Return whether a QEMU was built with a device, according to `-device help`.

    Raises:
        NoSubject: it cannot be run, or does not answer in time.
    """
    return f'name "{name}"' in _ask(executable, "-device", "help")


def has_netdev(executable: Path, name: str) -> bool:
    """Return whether a QEMU was built with a kind of network, according to `-netdev help`.

    Raises:
        NoSubject: it cannot be run, or does not answer in time.
    """
    # Some architectures have no default machine type, without which QEMU answers nothing.
    return name in _ask(executable, "-machine", "none", "-netdev", "help").split()


def has_block_driver(executable: Path, driver: str, options: str = "") -> bool:
    """Return whether a QEMU can open disks by a block driver with these options; it can be in a module.

    Args:
        executable: QEMU.
        driver: name of the driver.
        options: those that it must have, as for `-blockdev`; they may name a file that is not there.

    Raises:
        NoSubject: it cannot be run, or does not answer in time.
    """
    # A disk that cannot be opened ends QEMU by a message; otherwise its monitor ends it.
    machine = ("-machine", "none", "-nodefaults", "-display", "none", "-monitor", "stdio")
    disk = f"driver={driver},node-name=asked{',' if options else ''}{options}"
    said = _ask(executable, *machine, "-blockdev", disk, said="quit\n")
    return not any(words in said for words in _NO_DRIVER)


def _ask(executable: Path, *arguments: str, said: str = "") -> str:
    limit = patient(_ANSWER_SECONDS)
    try:
        done = subprocess.run(
            [executable, *arguments],
            input=said.encode(),
            capture_output=True,
            timeout=limit,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise NoSubject(
            f"'{executable}' did not answer '{' '.join(arguments)}' within {limit:.0f} s."
        ) from error
    except OSError as error:
        raise NoSubject(f"'{executable}' cannot be run: {error.strerror}.") from error
    return (done.stdout + done.stderr).decode(errors="replace")
