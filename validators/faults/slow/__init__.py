"""A planted slowdown: a library that makes QEMU save slower by a known share, for the A/B gate to find."""
