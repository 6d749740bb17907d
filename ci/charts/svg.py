"""Figures as inline SVG: matplotlib draws, then ids, colours and the description are made fit for a page."""

from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ci.charts.palette import GRID, INK, MUTED, PALETTE, Colour

WIDTH = 400
"""Width of a chart in its own units; at 360 px of a phone its text is still about 10 px high."""

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_URL = re.compile(r"url\(#([^)]+)\)")
_SETTINGS = {
    # Text stays text, with the page's own font.
    "svg.fonttype": "none",
    # Ids are otherwise random, and two drawings of the same figures would differ.
    "svg.hashsalt": "snapproof",
    # A '$' in the name of a RAMBlock is no formula.
    "text.parse_math": False,
    "axes.edgecolor": MUTED.stand_in,
    "axes.labelcolor": MUTED.stand_in,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 12,
    "axes.titlecolor": INK.stand_in,
    "axes.labelsize": 11.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "grid.color": GRID.stand_in,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 11.5,
    "legend.labelcolor": INK.stand_in,
    "lines.linewidth": 1.8,
    "text.color": INK.stand_in,
    "xtick.color": MUTED.stand_in,
    "ytick.color": MUTED.stand_in,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "xtick.minor.bottom": False,
    "ytick.minor.left": False,
}


@contextmanager
def new_figure(height: float) -> Iterator[Figure]:
    """A figure of the common width in the common style, which holds for as long as the context does.

    Args:
        height: in the same units as WIDTH.
    """
    with matplotlib.rc_context(_SETTINGS):  # type: ignore[arg-type]  # its stubs want a Literal of every key
        yield Figure(figsize=(WIDTH / 72, height / 72))


def as_svg(figure: Figure, key: str, title: str, description: str) -> str:
    """The figure as one `<svg>` element that can stand in a page beside others, or as a file of its own.

    Args:
        figure: as drawn in the context of `new_figure`, colours of the palette only.
        key: unique in the page, of letters, digits and dashes; led by it, ids are unique too.
        title: what the drawing is, for those who cannot see it.
        description: what it shows, in a sentence or two.

    Returns:
        Text without a declaration or a document type; the same for the same figure.
    """
    raw = io.BytesIO()
    figure.savefig(raw, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    # Trusted: matplotlib wrote it this instant.
    root = ET.fromstring(raw.getvalue())
    _use_page_colours(root)
    _rename_ids(root, key)
    _describe(root, key, title, description)
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK[1:].partition("}")[0])
    return ET.tostring(root, encoding="unicode")


def _use_page_colours(root: ET.Element) -> None:
    """Exchange stand-ins for variables, and leave the font to the page."""
    values = {colour.stand_in: colour.css for colour in PALETTE}
    for element in root.iter():
        style = element.get("style")
        if style is None:
            continue
        pairs = [part.strip().partition(": ") for part in style.split(";") if part.strip()]
        kept = [f"{name}: {values.get(value, value)}" for name, _, value in pairs if name != "font-family"]
        element.set("style", "; ".join(kept))


def _rename_ids(root: ET.Element, key: str) -> None:
    """Keep only the ids that something refers to, led by the key."""
    used = {element.get(_XLINK, "").removeprefix("#") for element in root.iter()}
    used |= {
        match for element in root.iter() for text in element.attrib.values() for match in _URL.findall(text)
    }
    for element in root.iter():
        name = element.attrib.pop("id", "")
        if name in used and name:
            element.set("id", f"{key}-{name}")
        for attribute, text in element.attrib.items():
            if attribute == _XLINK:
                element.set(attribute, f"#{key}-{text[1:]}")
            else:
                element.set(attribute, _URL.sub(rf"url(#{key}-\1)", text))


def _describe(root: ET.Element, key: str, title: str, description: str) -> None:
    for name in ("metadata", "defs"):
        # The one <defs> at the top holds a style for every element of the page.
        for found in root.findall(f"{{{_SVG}}}{name}"):
            if name == "metadata" or found.find(f"{{{_SVG}}}style") is not None:
                root.remove(found)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("class", "chart")
    root.set("role", "img")
    root.set("aria-labelledby", f"{key}-title {key}-desc")
    root.set("style", "stroke-linejoin: round; font-family: system-ui, sans-serif")
    for index, (name, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(f"{{{_SVG}}}{name}", id=f"{key}-{name}")
        element.text = text
        root.insert(index, element)


def time_text(microseconds: float) -> str:
    """A time as a person says it: "250 µs", "3 ms", "1.5 s"."""
    for limit, unit, factor in ((1e3, "µs", 1.0), (1e6, "ms", 1e3), (math.inf, "s", 1e6)):
        if abs(microseconds) < limit * 0.9995:
            return f"{microseconds / factor:.3g} {unit}"
    raise ValueError(microseconds)


def size_text(mib: float) -> str:
    """An amount of memory: "512 MiB", "2 GiB"."""
    return f"{mib:g} MiB" if mib < 1024 else f"{mib / 1024:.4g} GiB"


def count_text(number: float) -> str:
    """A number that fits an axis: "950", "12k", "1.5M"."""
    for limit, unit, factor in ((1e3, "", 1.0), (1e6, "k", 1e3), (math.inf, "M", 1e6)):
        if abs(number) < limit * 0.9995:
            return f"{number / factor:.3g}{unit}"
    raise ValueError(number)


def no_grid(axes: Axes, *names: str) -> None:
    """Take away the grid lines of the axes named "x" or "y"."""
    for name in names:
        (axes.xaxis if name == "x" else axes.yaxis).grid(visible=False)


def shade(axes: Axes, start: float, end: float, colour: Colour) -> None:
    """Shade a stretch of the x axis behind everything else."""
    axes.axvspan(start, end, color=colour.stand_in, alpha=0.18, linewidth=0, zorder=0)
