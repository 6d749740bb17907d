"""Searches for lists of steps that fail: draws them, counts what was reached, reduces and reports."""
