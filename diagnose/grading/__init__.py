"""Text → Reading: `strict` is what production would accept, `lenient` is whether the content is right."""
