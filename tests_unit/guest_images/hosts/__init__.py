"""Unit tests of guest_images/hosts/."""
