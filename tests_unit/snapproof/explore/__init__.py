"""Unit tests of snapproof/explore/."""
