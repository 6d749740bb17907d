"""Unit tests of snapproof/cli/."""
