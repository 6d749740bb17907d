"""Unit tests of snapproof/runs/."""
