"""The agent, the program that writes patterns in the guest: its sources in C, and its memory format."""
