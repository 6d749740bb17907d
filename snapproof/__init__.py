"""The `snapproof` command: its subcommands, runs of tests, benchmarks and reports."""
