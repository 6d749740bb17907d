"""What judges: the reader of vmstate streams, the oracles, planted faults and verdicts."""
