"""The feature tests, one module per suite; the first line of a test's docstring is its contract."""
