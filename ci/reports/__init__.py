"""Reports: what a run found, for people, for CI systems, and beside other runs."""
