"""Tests of saves that fail: guest, host and next snapshot must be right afterwards."""
