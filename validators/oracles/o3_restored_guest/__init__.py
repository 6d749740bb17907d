"""Oracle 3: the restored guest is the same guest, remembers its memory, and goes on."""
