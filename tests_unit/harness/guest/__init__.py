"""Unit tests of ways into a guest."""
