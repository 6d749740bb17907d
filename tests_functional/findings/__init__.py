"""Tests of the known issues' own reproducers."""
