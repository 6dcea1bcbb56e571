"""Verdict → what to do about it, how much it should help, and why."""
