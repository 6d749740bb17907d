"""`snapproof bench ab`, a CI gate: whether the snapshots of one QEMU or host cost more than another's."""
