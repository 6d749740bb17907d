"""Tests of snapshots that fail, are cancelled, or lose their process."""
