"""Write trackers: small engines that snapshot memory of their own process while threads write to it.

Each is one of the ways in which a background snapshot can be made, and all are judged alike. They are the
reference for what the kernel's features can do, and the subject of planted faults. Python 3.9 and the
standard library, so that they run on old hosts too.
"""
