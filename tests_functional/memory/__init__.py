"""Guest RAM of every kind that QEMU offers."""
