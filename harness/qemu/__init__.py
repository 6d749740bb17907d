"""One QEMU: how it is started, its QMP, its migration verbs, its RAM seen from outside."""
