"""A text → a reading: strict is what production would accept, lenient whether the content is right."""
