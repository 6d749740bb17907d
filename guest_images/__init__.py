"""What gets booted: catalogue, package fetch, initramfs, and the guest agent."""
