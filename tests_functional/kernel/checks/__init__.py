"""The feature tests themselves, a module for each suite; the docstring of each test is its contract."""
