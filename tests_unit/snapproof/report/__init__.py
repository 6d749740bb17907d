"""Unit tests of snapproof/report/."""
