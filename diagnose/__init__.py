"""From an eval set and a base model to a diagnosis.

The path of one item: `items` reads it, `probes` ask the model about it (`models`), `grading` reads each answer twice
(strict and lenient), `verdict` turns the answers of a slice into a posterior over gaps and one verdict, `advice` says
what to do, `report` shows it. `run` tells this story in order.
"""
