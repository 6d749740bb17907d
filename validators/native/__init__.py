"""The native core: C code for what touches every page of a file, and its calls from Python."""
