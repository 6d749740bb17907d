"""The `snapproof` command, one module for each subcommand."""
