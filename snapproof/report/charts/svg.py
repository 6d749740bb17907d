"""Makes inline SVG from matplotlib's figures: ids, colours and description are made fit for a page."""

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

from snapproof.report.charts.palette import GRID, INK, MUTED, PALETTE, Colour

WIDTH = 400
"""Width of a chart in its own units; at 360 px of a phone its text is still about 10 px high."""

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_URL = re.compile(r"url\(#([^)]+)\)")
_SETTINGS = {
    # Keep text as text, in the page's own font.
    "svg.fonttype": "none",
    # Without it ids are random, and two drawings of the same figures differ.
    "svg.hashsalt": "snapproof",
    # A '$' in the name of a RAMBlock must not begin a formula.
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
    """Make a figure of the common width in the common style, which applies until the context ends.

    Args:
        height: in the same units as WIDTH.
    """
    with matplotlib.rc_context(_SETTINGS):  # type: ignore[arg-type]  # its stubs want a Literal of every key
        yield Figure(figsize=(WIDTH / 72, height / 72))


def as_svg(figure: Figure, key: str, title: str, description: str) -> str:
    """Return the figure as one `<svg>` element for a page with other drawings, or for a file of its own.

    Args:
        figure: drawn in the context of `new_figure`, with colours of the palette only.
        key: prefix of all ids, of letters, digits and dashes; it must be unique in the page.
        title: title for readers who cannot see the drawing.
        description: what the drawing shows, in a sentence or two.

    Returns:
        Text without an XML declaration or a document type; the same for the same figure.
    """
    raw = io.BytesIO()
    figure.savefig(raw, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    # Trusted input: matplotlib has just written it.
    root = ET.fromstring(raw.getvalue())
    _use_page_colours(root)
    _rename_ids(root, key)
    _describe(root, key, title, description)
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK[1:].partition("}")[0])
    return ET.tostring(root, encoding="unicode")


def _use_page_colours(root: ET.Element) -> None:
    """Replace the stand-ins by CSS variables, and leave the font to the page."""
    values = {colour.stand_in: colour.css for colour in PALETTE}
    for element in root.iter():
        style = element.get("style")
        if style is None:
            continue
        pairs = [part.strip().partition(": ") for part in style.split(";") if part.strip()]
        kept = [f"{name}: {values.get(value, value)}" for name, _, value in pairs if name != "font-family"]
        element.set("style", "; ".join(kept))


def _rename_ids(root: ET.Element, key: str) -> None:
    """Put the key before the ids that something refers to, and remove all others."""
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
        # The <defs> at the top holds a style that would apply to every element of the page.
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
    """Return a time as text: "250 µs", "3 ms", "1.5 s"."""
    for limit, unit, factor in ((1e3, "µs", 1.0), (1e6, "ms", 1e3), (math.inf, "s", 1e6)):
        if abs(microseconds) < limit * 0.9995:
            return f"{microseconds / factor:.3g} {unit}"
    raise ValueError(microseconds)


def size_text(mib: float) -> str:
    """Return an amount of memory as text: "512 MiB", "2 GiB"."""
    return f"{mib:g} MiB" if mib < 1024 else f"{mib / 1024:.4g} GiB"


def count_text(number: float) -> str:
    """Return a number as text that fits an axis: "950", "12k", "1.5M"."""
    for limit, unit, factor in ((1e3, "", 1.0), (1e6, "k", 1e3), (math.inf, "M", 1e6)):
        if abs(number) < limit * 0.9995:
            return f"{number / factor:.3g}{unit}"
    raise ValueError(number)


def no_grid(axes: Axes, *names: str) -> None:
    """Remove the grid lines of the axes named "x" or "y"."""
    for name in names:
        (axes.xaxis if name == "x" else axes.yaxis).grid(visible=False)


def shade(axes: Axes, start: float, end: float, colour: Colour) -> None:
    """Shade a range of the x axis behind everything else."""
    axes.axvspan(start, end, color=colour.stand_in, alpha=0.18, linewidth=0, zorder=0)
