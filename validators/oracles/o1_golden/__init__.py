"""Oracle 1: RAM in the file equals RAM at T0, bit for bit."""
