"""The A/B gate, `snapproof bench ab`: tests whether B's snapshots cost more than A's, for CI systems."""
