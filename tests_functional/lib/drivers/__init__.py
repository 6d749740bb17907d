"""Drivers of a bare guest's devices, which the host plays: one for each kind of device."""
