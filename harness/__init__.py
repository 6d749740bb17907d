"""One QEMU on one host: processes, QMP, console, guest SSH, deadlines, errors."""
