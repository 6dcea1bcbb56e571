"""Checks, before any training step, for mistakes that would otherwise go unnoticed.

They look at what is trained on: every row of every stage as tokens, not at the settings that should make them so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from diagnose.config import LEAST_PAIRS
from diagnose.errors import BadInput
from diagnose.models.adapter import adapted
from diagnose.models.base import prompt_format_differs
from diagnose.models.identity import base_sha
from diagnose.models.weights import prompt_format_of
from diagnose.report.words import short
from diagnose.text import first_line
from train import pii
from train.config import ALGORITHMS, lora_settings, max_length, split_batch, stage_settings, stages_of, trl_config
from train.data import ANSWERS
from train.memory import PACKED, SPARE, Step, device_bytes, network_of
from train.pairs import agreement, contradictions, giveaways
from train.plan import Plan
from train.render import Tokens, prompt_ids, whole_ids
from train.rows import Row, key, said
from train.speed import seconds_per_batch, told, typical

REWRITING = ("pissa", "olora", "corda", "loftq")
"""Initialisations that modify the base weights: disabling the adapter no longer yields the base model.

https://huggingface.co/docs/peft/developer_guides/lora; PiSSA (arXiv 2404.02948), OLoRA (2406.01775), CorDA
(2406.05223), LoftQ (2310.08659).
"""
COLLECTED = ("eva", "corda")
"""Initialisations from activations on the data, without which PEFT leaves them plain (EVA: arXiv 2410.07170)."""
FEW, ENOUGH_PAIRS = 32, 2000
"""Rows below which there are only a few batches; pairs from which on a reward model is not doubtful (hand-set)."""
COPIES = 0.1
"""Share of rows that may repeat others, unsaid (hand-set)."""
SHOWN = 3
"""Rows that are shown as tokens."""
Level = Literal["passed", "warned", "blocked"]
Found = tuple[Level, str]


@dataclass(frozen=True)
class Check:
    """Result of one check; a blocked one stops the run."""

    name: str
    level: Level
    message: str


def preflight(plan: Plan) -> list[Check]:
    """All checks, in the order in which they are shown; those that `preflight.force` names do not block.

    Raises:
        BadInput: a row that the chat template refuses, by file:line; a forced check that does not exist.
    """
    force = plan.config.preflight.force
    if unknown := sorted(set(force) - set(CHECKS)):
        raise BadInput(f"preflight.force: unknown check {unknown[0]!r}; allowed: {', '.join(CHECKS)}")
    checks = [_run(name, check, plan, name in force) for name, check in CHECKS.items()]
    trainable = all(c.level != "blocked" and (c.name, c.level) != ("memory", "warned") for c in checks)
    return [*checks, Check("time", *_time(plan))] if plan.config.preflight.mode == "only" and trainable else checks


def _run(name: str, check: Callable[[Plan], Found], plan: Plan, forced: bool) -> Check:
    level, message = check(plan)
    if forced and level == "blocked":
        return Check(name, "warned", f"{message} (forced)")
    return Check(name, level, message)


def shown_rows(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Some rows as they are trained on: file:line, the end of what is read only, what the loss is on."""
    sequences = [t for part in plan.tokens.values() for t in part if t.column != "prompt"]
    for wanted in sequences[:: max(1, len(sequences) // SHOWN)][:SHOWN]:
        text = plan.text_of(wanted)
        (ids,) = whole_ids(plan.tokenizer, [text])
        yield wanted.where, plan.tokenizer.decode(ids[: wanted.shared]), plan.tokenizer.decode(ids[wanted.shared :])


def _columns(plan: Plan) -> Found:
    """How columns were read, and those that nothing reads."""
    mappings, ignored = Counter[str](), Counter[str]()
    for rows in plan.data.values():
        mappings |= rows.mappings
        ignored |= rows.ignored
    parts = list(mappings) or ["named as in TRL"]
    parts += [f"nothing reads {', '.join(ignored)}"] if ignored else []
    return "warned" if ignored else "passed", "; ".join(parts)


def _rows(plan: Plan) -> Found:
    """Too few rows, and rows that repeat others."""
    distinct = {kind: len({_content(row) for row in rows.rows}) for kind, rows in plan.data.items()}
    total = {kind: len(rows.rows) for kind, rows in plan.data.items()}
    parts = [", ".join(f"{n} {kind} rows" for kind, n in total.items())]
    parts += [
        f"{total[kind] - n} of the {kind} rows repeat others"
        for kind, n in distinct.items()
        if total[kind] - n > COPIES * total[kind]
    ]
    if "reward" in stages_of(plan.config.method) and (pairs := distinct["preferences"]) < ENOUGH_PAIRS:
        parts.append(f"{pairs} different pairs; a reward model of fewer than {ENOUGH_PAIRS:,} is doubtful")
        if pairs < LEAST_PAIRS:
            return "blocked", "; ".join([*parts, f"of fewer than {LEAST_PAIRS} none is trained"])
    parts += [f"fewer than {FEW} different {kind} rows" for kind, n in distinct.items() if n < FEW]
    return "warned" if len(parts) > 1 else "passed", "; ".join(parts)


def _content(row: Row) -> str:
    answers = [said(row[name]) for name in ANSWERS if name in row]  # type: ignore[literal-required]
    return "\0".join([key(row), *answers, row.get("text", "")])


def _leakage(plan: Plan) -> Found:
    """What was left out, because the eval set asks it or for another reason."""
    dropped = sum((rows.dropped for rows in plan.data.values()), Counter[str]())
    dropped.pop("other slice", None)
    text = ", ".join(f"{n} dropped: {reason}" for reason, n in dropped.items())
    return "warned" if dropped else "passed", text or "no row holds a prompt of the eval set, or part of one"


def _pairs(plan: Plan) -> Found:
    """Pairs that contradict each other, and what tells their answers apart without reading them."""
    if "preferences" not in plan.data:
        return "passed", "none are trained on"
    pairs = plan.data["preferences"].rows
    against, (agreed, judged) = contradictions(pairs), agreement(pairs)
    parts = [f"{len(pairs)} pairs"]
    if against:
        parts.append(f"{len(against)} are contradicted by another, first at {against[0]['where']}")
    if judged:
        parts.append(f"two judgements of the same answers agree in {short(agreed / judged)} of {judged} cases")
    if told := max(giveaways(pairs), key=lambda found: found[1], default=None):
        parts.append(f"the chosen answer is {told[0]} in {short(told[1])} of them, which tells the two apart")
    level: Level = "warned" if against or len(parts) > 1 + bool(judged) else "passed"
    return "blocked" if len(against) > len(pairs) / 2 else level, "; ".join(parts)


def _coverage(plan: Plan) -> Found:
    """Rows for every slice that is to be trained for, and no slice that the eval set does not have."""
    have = Counter(row["slice"] for row in plan.rows)
    unnamed = have.pop("", 0)
    without = [name for name in plan.slices or () if not have[name]]
    foreign = sorted(set(have) - {verdict.slice for verdict in plan.diagnosis.slices})
    parts = [f"rows of {', '.join(sorted(have))}"] if have else []
    parts += [f"{unnamed} rows of no slice"] if unnamed else []
    parts += [f"none of {', '.join(without)}"] if without else []
    parts += [f"the eval set does not have {', '.join(foreign)}"] if foreign else []
    # Rows of no slice may be about any of them.
    return "warned" if foreign or (without and not unnamed) else "passed", "; ".join(parts)


def _personal(plan: Plan) -> Found:
    """Cards, accounts, addresses and keys, which the model would learn to say."""
    if plan.config.pii == "off":
        return "passed", "not looked for (pii=off)"
    kinds, first = pii.counted(plan.rows)
    if not kinds:
        left = " left after masking" if plan.config.pii == "mask" else ""
        return "passed", f"no card numbers, IBANs, e-mail addresses or keys{left}"
    text = ", ".join(f"{kind} in {n} rows" for kind, n in kinds.most_common())
    level: Level = "blocked" if plan.config.pii == "refuse" else "warned"
    return level, f"{text}, first at {first}; pii=mask replaces them, pii=off does not look"


def _evalset(plan: Plan) -> Found:
    """The comparison afterwards asks what was diagnosed."""
    if plan.evalset_sha256 in (None, plan.diagnosis.evalset["sha256"]):
        return "passed", "as it was diagnosed"
    return "blocked", "changed since the diagnosis: no comparison with it would be possible; diagnose again"


def _base(plan: Plan) -> Found:
    """The weights that are trained are those that were diagnosed, wherever they lie."""
    then, path = plan.diagnosis.run.get("base_sha"), plan.config.model.path
    if then is None:
        return "passed", "not compared: the diagnosis does not say which weights it saw"
    if base_sha(str(path)) != then:
        return "blocked", f"{path} holds other weights than were diagnosed; rerun diagnose.py on them"
    return "passed", "the weights that were diagnosed"


def _prompt_format(plan: Plan) -> Found:
    """The prompt that is trained on is the one that the diagnosis asked."""
    now = prompt_format_of(plan.config.model, plan.tokenizer, plan.ends)
    if differs := prompt_format_differs(now, plan.diagnosis.run.get("prompt_format") or {}):
        return "blocked", f"differs from the diagnosis in: {', '.join(differs)}"
    every = [t for part in plan.tokens.values() for t in part]
    if lost := [t for t in every if t.lost]:
        says = f"the chat template leaves out a turn of {lost[0].lost}"
        return "blocked", f"{says} in {len(lost)} of {len(every)} sequences, first at {lost[0].where}"
    if other := [t for t in every if t.shared < t.asked]:
        asked = prompt_ids(plan.tokenizer, plan.text_of(other[0]).asked)
        end = plan.tokenizer.decode(asked[other[0].shared :])[:60]
        text = f"{len(other)} of {len(every)} sequences lack the end of the prompt as it is asked, {end!r}"
        return "blocked" if len(other) > len(every) / 2 else "warned", f"{text}, first at {other[0].where}"
    return "passed", f"all {len(every)} sequences start with the prompt as the diagnosis asks it"


def _end_token(plan: Plan) -> Found:
    """An answer must end with a token that ends generation, or the tuned model never stops."""
    every = [t for part in plan.tokens.values() for t in part if t.column != "prompt"]
    names = ", ".join(map(repr, plan.tokenizer.convert_ids_to_tokens(sorted(plan.ends))))
    without = [t for t in every if t.end < 0]
    if not without:
        return "passed", f"every answer ends with {names}, as generation does"
    tail = plan.text_of(without[0]).whole.rstrip()[-12:]
    text = f"{len(without)} of {len(every)} answers end with {tail!r}, but generation ends with {names}"
    return "blocked" if len(without) > len(every) / 2 else "warned", f"{text}; set model.eos_token"


def _length(plan: Plan) -> Found:
    """Rows that lose their end, or all of their answer, in any stage."""
    level: Level = "passed"
    parts = []
    for stage in stages_of(plan.config.method):
        sequences = plan.of_stage(stage)
        limit, cut, gone = _cut(plan, stage, sequences)
        longest = max(t.asked if stage in ALGORITHMS else t.length for t in sequences)
        parts.append(f"{stage}: the longest {'prompt ' if stage in ALGORITHMS else ''}has {longest} tokens of {limit}")
        if gone:
            parts.append(f"{len(gone)} of {len(sequences)} have no room for an answer, first at {gone[0].where}")
        if cut:
            parts.append(f"{len(cut)} of {len(sequences)} lose the end of their answer, first at {cut[0].where}")
        if gone or cut:
            level = "blocked" if len(gone) == len(sequences) or level == "blocked" else "warned"
    return level, "; ".join(parts)


def _cut(plan: Plan, stage: str, sequences: list[Tokens]) -> tuple[int, list[Tokens], list[Tokens]]:
    """Tokens that a sequence may have; those that lose the end of their answer, and those that lose all of it."""
    settings = stage_settings(plan.config, stage, stages_of(plan.config.method)[stage][1])
    if stage in ALGORITHMS:
        room = plan.window - int(settings.get("max_completion_length") or plan.config.model.max_new_tokens or 0)
        return room, [], [t for t in sequences if t.asked > room]
    limit = min(max_length(plan.config, stage) or plan.window, plan.window)
    if stage == "reward":  # TRL leaves longer pairs out
        return limit, [], [t for t in sequences if t.length > limit]
    if settings.get("truncation_mode") == "keep_end":
        return limit, [], []
    gone = [t for t in sequences if t.shared >= limit]
    return limit, [t for t in sequences if t.shared < limit <= t.end], gone


def _reference(plan: Plan) -> Found:
    """What the initialisation does to the base, which is the reference of everything but SFT."""
    init = str(plan.config.lora.get("init_lora_weights", "")).lower()
    if init.startswith(COLLECTED):
        return (
            "blocked",
            f"lora.init_lora_weights={init} needs activations that nothing collects here: it would be plain",
        )
    if list(stages_of(plan.config.method)) != ["sft"] and init.startswith(REWRITING):
        method = plan.config.method.name
        return (
            "blocked",
            f"lora.init_lora_weights={init} modifies the base weights; {method} would use a wrong reference",
        )
    return "passed", "the base with the adapter disabled"


def _memory(plan: Plan) -> Found:
    """A step of the stage that needs most, against the device."""
    network = network_of(adapted(str(plan.config.model.path), _lora(plan)))
    device, there = device_bytes()
    stage, step = max(((s, _step(plan, s, network)) for s in stages_of(plan.config.method)), key=lambda at: at[1].bytes)
    text = f"about {_gb(step.bytes)} for a step of {stage}; {device} has {_gb(there)}"
    if step.bytes <= SPARE * there:
        return "passed", text
    fitting = step
    while fitting.sequences > 1 and fitting.bytes > SPARE * there:
        fitting = replace(fitting, sequences=fitting.sequences // 2)
    if fitting.bytes > SPARE * there:
        return "warned", f"{text}, too little even for one row at a time; take a smaller base or model.dtype=bfloat16"
    size = max(1, fitting.sequences // _sequences_per_row(stage)) * plan.config.num_processes
    return "warned", f"{text}; {stages_of(plan.config.method)[stage][0]}.per_device_train_batch_size={size} would fit"


def _lora(plan: Plan) -> Any:
    from peft import LoraConfig  # imports torch, which a wrong setting should not wait for

    return LoraConfig(**lora_settings(plan.config) | {"task_type": "CAUSAL_LM"})


def _step(plan: Plan, stage: str, network: dict[str, int]) -> Step:
    """The largest step of a stage: all of its rows as long as the longest."""
    import torch

    settings = stage_settings(plan.config, stage, stages_of(plan.config.method)[stage][1])
    half = (plan.config.model.dtype or str(getattr(plan.base, "dtype", None) or "float32")).endswith("16")
    longest = max(t.asked if stage in ALGORITHMS else t.length for t in plan.of_stage(stage))
    if stage in ALGORITHMS:
        longest += int(settings.get("max_completion_length") or plan.config.model.max_new_tokens or 0)
    return Step(
        **network,
        bytes_per_weight=PACKED if plan.config.model.quantization else 2 if half else 4,
        bytes_per_value=2 if half else 4,
        sequences=split_batch(plan.config, stage)["per_device_train_batch_size"] * _sequences_per_row(stage),
        length=min(longest, max_length(plan.config, stage) or plan.window),
        checkpointing=bool(settings.get("gradient_checkpointing", torch.cuda.is_available() and half)),
    )


def _time(plan: Plan) -> Found:
    """How long each stage takes, at the speed of a few batches; generation depends on what the model will say."""
    try:
        return "passed", "; ".join(
            _time_of(plan, stage, given) for stage, (_, given) in stages_of(plan.config.method).items()
        )
    except (RuntimeError, ValueError) as error:  # no room on the device, or what PEFT and torch find while they try
        return "warned", f"not measured: {first_line(error)}"


def _time_of(plan: Plan, stage: str, given: dict[str, Any]) -> str:
    if stage in ALGORITHMS:
        return f"{stage}: not measured, it depends on the length of the answers"
    settings, batch = stage_settings(plan.config, stage, given), split_batch(plan.config, stage)
    size, accumulated = batch["per_device_train_batch_size"], batch["gradient_accumulation_steps"]
    lengths = [min(t.length, max_length(plan.config, stage) or plan.window) for t in plan.of_stage(stage)]
    together = _sequences_per_row(stage)
    steps = int(settings.get("max_steps") or -1)
    if steps <= 0:
        watch, rows = plan.config.watch, len(lengths) // together
        rows -= round(min(watch.held_out, watch.prompts / rows) * rows) if watch.every != 0 else 0
        epochs = float(settings.get("num_train_epochs") or trl_config(stage).num_train_epochs)
        steps = math.ceil(epochs * math.ceil(rows / (size * accumulated * plan.config.num_processes)))
    of_batch = typical(lengths, size * together)
    seconds = accumulated * seconds_per_batch(plan.config.model, _lora(plan), of_batch, reference=stage == "dpo")
    return f"{stage}: about {told(steps * seconds)} for {steps} steps, without looks at held-out rows"


def _sequences_per_row(stage: str) -> int:
    """Pairs are compared in one pass."""
    return 2 if stage in ("dpo", "reward") else 1


def _gb(size: int) -> str:
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.0f} MB"


CHECKS: dict[str, Callable[[Plan], Found]] = {
    "columns": _columns,
    "rows": _rows,
    "leakage": _leakage,
    "pairs": _pairs,
    "slices": _coverage,
    "personal data": _personal,
    "eval set": _evalset,
    "base": _base,
    "prompt format": _prompt_format,
    "end token": _end_token,
    "length": _length,
    "reference": _reference,
    "memory": _memory,
}
"""Name, as `preflight.force` takes it → the check."""
