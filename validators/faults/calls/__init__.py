"""Faults in calls: a library preloaded into QEMU counts its userfaultfd calls and makes one fail."""
