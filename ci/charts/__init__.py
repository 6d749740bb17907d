"""Charts as inline SVG, drawn by matplotlib: what a snapshot costs, its timeline, where bad pages lie.

matplotlib comes with the extra `report`; without it, importing any module here but `palette`, `samples` and
`times` raises ImportError.
"""
