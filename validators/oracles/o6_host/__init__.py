"""Oracle 6: a snapshot leaves nothing behind on the host and in QEMU."""
