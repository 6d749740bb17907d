"""What the host's Linux kernel does with a process: its memory, its waits, its restrictions."""
