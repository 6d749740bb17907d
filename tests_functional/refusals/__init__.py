"""What else may be asked of QEMU together with a background snapshot: refused clearly, or right."""
