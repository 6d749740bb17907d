"""Unit tests of snapproof/."""
