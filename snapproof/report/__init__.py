"""Reports: the results of a run for people, for CI systems, and compared with other runs."""
