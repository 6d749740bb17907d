"""Command-line arguments, one module for each subcommand; they import nothing that --help does not need."""
