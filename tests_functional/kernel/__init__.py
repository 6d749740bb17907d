"""Feature tests of the kernel's userfaultfd write protection, for any Linux host with Python 3.9.

They import nothing but the standard library, `harness.userfaultfd` and `validators.trackers`, so that these
three folders can be carried to a host and run there: ``python3 -m tests_functional.kernel``. docs/kernel.md
has the rest.
"""
