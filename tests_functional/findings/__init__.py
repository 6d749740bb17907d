"""Tests that the reproducer of each known issue shows what docs/findings.md says."""
