"""Defines the colours of charts: matplotlib draws with stand-ins, which CSS variables replace."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Colour:
    """One colour of the palette.

    Attributes:
        stand_in: the colour that matplotlib draws with; unique, so that it can be found again.
        variable: the CSS variable that a page may set.
        fallback: the colour on a light ground, for a drawing that is a file of its own.
    """

    stand_in: str
    variable: str
    fallback: str

    @property
    def css(self) -> str:
        """Its value in a style attribute."""
        return f"var({self.variable}, {self.fallback})"


# The series are Okabe and Ito's colours ("Color Universal Design", 2008), darkened to 3:1 on white.
INK = Colour("#010101", "--chart-ink", "#1f2a33")
MUTED = Colour("#020202", "--chart-muted", "#5b6874")
GRID = Colour("#030303", "--chart-grid", "#dde2e7")
GROUND = Colour("#040404", "--chart-ground", "#ffffff")
TRACK = Colour("#050505", "--chart-track", "#e8ecf0")
BAD = Colour("#060606", "--chart-bad", "#c0281f")
BLUE = Colour("#070707", "--chart-blue", "#0072b2")
SKY = Colour("#080808", "--chart-sky", "#3a91c7")
VERMILION = Colour("#090909", "--chart-vermilion", "#c95500")
AMBER = Colour("#0a0a0a", "--chart-amber", "#b07800")
GREEN = Colour("#0b0b0b", "--chart-green", "#00835f")

PALETTE = (INK, MUTED, GRID, GROUND, TRACK, BAD, BLUE, SKY, VERMILION, AMBER, GREEN)
