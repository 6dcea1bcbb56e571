"""The questions put to a model: which there are (`table`), their prompts, whom they are asked of, and the answers."""
