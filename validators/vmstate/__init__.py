"""vmstate files: the stream reader, pages, devices, differences and extraction."""
