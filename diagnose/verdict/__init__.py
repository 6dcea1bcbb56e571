"""Answers → evidence → posterior over gaps → one verdict per slice."""
