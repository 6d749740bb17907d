"""Unit tests of docs/."""
