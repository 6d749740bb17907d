"""Unit tests of guest_images/agent/."""
