"""The guest agent: its C source, how it is built, its page format, and how the host talks to it."""
