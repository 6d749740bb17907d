"""Hosts on which programs of ours run: this machine, a lab machine over SSH, a VM booted for the purpose."""
