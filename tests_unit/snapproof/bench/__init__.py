"""Unit tests of snapproof/bench/."""
