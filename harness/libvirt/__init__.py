"""Runs a libvirt for tests, in namespaces made for it, without touching the machine's."""
