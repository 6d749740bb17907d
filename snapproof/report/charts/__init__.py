"""Charts as inline SVG, drawn by matplotlib: the cost of snapshots, their timelines, maps of bad pages.

matplotlib comes with the extra `report`. Without it, importing any module here except `palette`, `samples`
and `times` raises ImportError.
"""
