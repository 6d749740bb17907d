"""The six oracles, one folder each, numbered as in docs/oracles.md."""
