"""The validators against QEMU itself: what they read out of a file is what QEMU makes of it."""
