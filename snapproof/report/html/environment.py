"""Makes the environment part of report.html: the values that all host stacks share, and the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from snapproof.report.html.checked import clean, mapping
from snapproof.report.html.figures import figure_name, figure_text
from snapproof.report.html.views import Column, Table
from snapproof.report.run_result import label_of

_NAMES = {
    "qemu": "QEMU",
    "host": "Host",
    "host_kernel": "Host kernel",
    "host_architecture": "Architecture",
    "host_cpus": "Processors",
    "accelerator": "Accelerator",
    "machine": "Machine type",
    "cpu": "CPU model",
    "firmware": "Firmware",
    "qemu_args": "QEMU arguments",
    "accelerator_reason": "Why this accelerator",
    "guest_image": "Guest",
    "guest_image_digest": "Guest's digest",
    "qemu_executable": "QEMU executable",
    "seed": "Seed",
}
_MINOR = ("accelerator_reason", "guest_image_digest", "qemu_executable", "host", "ssh_host_key")
_SHOWN = 40


def legs_of(environment: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the environment of each leg by its label; "" is the label of the only one."""
    if environment and all(isinstance(value, dict) for value in environment.values()):
        return {label: mapping(value) for label, value in environment.items()}
    return {"": environment}


def common_to(legs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values that are the same in all legs."""
    first = legs[0] if legs else {}
    return {name: value for name, value in first.items() if all(leg.get(name) == value for leg in legs)}


def rows_of(values: Mapping[str, Any], minor: bool | None = None) -> list[tuple[str, str]]:
    """Return name and text of each value, the important ones first.

    Args:
        values: an environment.
        minor: True for only the values that few readers look for, False for only the others, None for all.
    """
    order = [*(name for name in _NAMES if name in values), *(name for name in values if name not in _NAMES)]
    order = [name for name in order if minor is None or minor is (name in _MINOR)]
    found = [(_name(name), _text(name, values[name])) for name in order[:_SHOWN]]
    return [(name, text) for name, text in found if text]


def stacks_table(legs: Mapping[str, Mapping[str, Any]], common: Mapping[str, Any]) -> Table:
    """Return the values that differ between the legs as a table with a row for each leg."""
    if len(legs) < 2:
        return Table()
    names = [name for name in _NAMES if name not in _MINOR and name not in common]
    used = [name for name in names if any(name in leg for leg in legs.values())]
    rows = [[clean(label, 60), *(clean(leg.get(name), 200) for name in used)] for label, leg in legs.items()]
    return Table(["", *map(_name, used)], rows)


def column_of(test: Mapping[str, Any], legs: Mapping[str, Mapping[str, Any]]) -> tuple[Column, str, str]:
    """Return the host stack that a test ran on, the label of its leg, and its name without the label."""
    name = test.get("name")
    name = name if isinstance(name, str) else ""
    label = label_of(name, legs)
    rest = name.removeprefix(f"{label}/") if label else name
    own = mapping(test.get("environment")) or legs.get(label, {})
    shared = legs.get(label, {})
    qemu = clean(own.get("qemu", shared.get("qemu")), 80).partition(" ")[0]
    kernel = clean(own.get("host_kernel", shared.get("host_kernel")), 80).partition(" ")[0]
    return Column(clean(label, 60), qemu, kernel), label, rest


def _name(name: str) -> str:
    return _NAMES.get(name) or figure_name(name).capitalize()


def _text(name: str, value: object) -> str:
    """Return a value as text; "" for an object. A seed gets no thousands separators."""
    if isinstance(value, dict):
        return ""
    if isinstance(value, list):
        return clean(", ".join(map(str, value[:20])), 300)
    return clean(value, 300) if name == "seed" else clean(figure_text(name, value), 300)
