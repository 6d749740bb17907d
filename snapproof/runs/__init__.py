"""A run: its stack, its tests as Avocado jobs, its shards, and its results folder."""
