"""Values and fakes that several unit tests share."""
