"""Room 1: from an eval set and a base model to a diagnosis.

The path of one item: `evalset` reads it, `probes` asks the model about it (`model`, `decode`), `grade` reads each
answer twice (strict and lenient), `attribute` turns the answers of a slice into a posterior over gaps, `verdicts`
says what that means, `recommend` what to do, and `report` shows it. `run` tells this story in order.
"""
