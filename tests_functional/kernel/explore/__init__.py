"""Runs random lists of memory operations against a model of each page's content and protection."""
