"""Tests the stream reader against QEMU's own loader: both must find the same RAM in a file."""
