"""Oracle 5: the source guest is unharmed by its snapshot."""
