"""From a diagnosis and training rows to a run directory with an adapter.

`run` (the outer process: config, preflight, one worker) → `worker` → `sft`, `dpo` or `rlhf`.
"""
