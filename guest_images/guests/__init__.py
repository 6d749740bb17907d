"""Guests: a kernel, an initramfs or a disk, and the keys to log in with."""
