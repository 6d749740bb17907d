"""Feature tests of the kernel's userfaultfd write protection (UFFD-WP), without QEMU or a guest.

They need Python 3.9 and import only the standard library, `harness.userfaultfd` and this package. So these
two folders can be copied to any Linux host and run there: ``python3 -m tests_functional.kernel``. See
docs/kernel.md.
"""
