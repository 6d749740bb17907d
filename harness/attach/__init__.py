"""Attach to a QEMU that somebody else runs: a guard owns its monitor, and puts back what was set."""
