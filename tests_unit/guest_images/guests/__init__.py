"""Unit tests of guest_images/guests/."""
