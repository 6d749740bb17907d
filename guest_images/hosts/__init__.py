"""Host VMs: kernels to test on, and the small Debian that runs under them."""
