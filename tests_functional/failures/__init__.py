"""Tests saves that fail: the guest goes on, the host is clean and the next snapshot is right."""
