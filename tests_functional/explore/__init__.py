"""Random lists of steps around snapshots, each run on a real guest and judged by a model and the oracles."""
