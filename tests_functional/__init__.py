"""Functional tests: scenarios on real guests, their Avocado tests, and the kernel's feature tests."""
