"""Run programs on a host: this machine, a lab machine over SSH, or a VM that is booted for the purpose."""
