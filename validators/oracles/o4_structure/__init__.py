"""Oracle 4: the rules that every vmstate stream keeps."""
