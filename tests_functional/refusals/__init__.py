"""Tests what QEMU must refuse: options that do not fit a background snapshot, a host without userfaultfd."""
