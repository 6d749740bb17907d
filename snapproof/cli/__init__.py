"""The subcommands of `snapproof`, one module for each, and the main function."""
