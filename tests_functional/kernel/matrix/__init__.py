"""The contract of write protection as a matrix: ways to make entries anew, contents, memory types."""
