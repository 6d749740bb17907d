"""Unit tests of guest_images/disks/."""
