"""Write trackers: each snapshots memory of its own process while threads write to it, by one kernel feature.

They stand for the ways to make a background snapshot (UFFD-WP, mprotect and SIGSEGV, asynchronous UFFD-WP),
and `judge` judges all of them alike. They show what each kernel feature can do, and faults are planted in
them. The package needs Python 3.9 and the standard library, so that it can be copied to old hosts.
"""
