"""Tests of guests that do not run when they are saved."""
