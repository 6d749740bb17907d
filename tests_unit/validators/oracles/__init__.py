"""Unit tests of validators/oracles/."""
