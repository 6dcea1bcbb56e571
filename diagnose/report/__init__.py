"""The diagnosis in the terminal, as HTML and Markdown, and in W&B."""
