"""Sets up a run, runs its tests as Avocado jobs, and writes its results folder."""
