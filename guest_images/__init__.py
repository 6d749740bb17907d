"""Builds all that gets booted from Debian packages, without root: QEMUs, guests, hosts and the agent."""
