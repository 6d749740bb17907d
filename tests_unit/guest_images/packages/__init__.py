"""Unit tests of guest_images/packages/."""
