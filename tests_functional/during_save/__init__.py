"""Tests of what is done to a guest and its QEMU while a background snapshot saves RAM."""
