"""Tests of what writes guest RAM and is no vCPU: devices, and processes beside QEMU."""
