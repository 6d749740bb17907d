"""A library to preload into QEMU that counts its userfaultfd calls and fails one, and its control page."""
