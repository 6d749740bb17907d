"""Live faults: libraries preloaded into QEMU that break its background snapshots on purpose."""
