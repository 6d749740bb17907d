"""Tests snapshots that one QEMU takes and newer QEMUs restore."""
