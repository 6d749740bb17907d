"""What judges: the vmstate stream reader, the oracles, planted faults, verdicts."""
