"""Runs a libvirt of one's own, in namespaces of its own, without touching the machine's."""
