"""Eval-set files → rows → items."""
