"""Live planted faults: libraries preloaded into QEMU that break the promise on purpose."""
