"""The arguments of each command; for its --help nothing is imported that only running it takes."""
