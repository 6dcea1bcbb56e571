"""Planted slices drawn from recorded answers, so that other sizes and mixtures need no further model calls.

A world is an eval set as a user might have it: several slices that share no question. It is diagnosed by the product's
own code, from the answers that `diagnose.py` has recorded for all items.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from diagnose.config import EvalSetConfig, ProbesConfig, RuleConfig
from diagnose.errors import BadInput
from diagnose.items.evalset import EvalSet, by_slice, read_evalset
from diagnose.probes.answers import AnswerLog
from diagnose.provenance import ROOT
from diagnose.records import CLASSES, FORMAT, KNOWLEDGE, Answer, EvalItem, SliceVerdict
from diagnose.verdict.decide import GAPS, masses, verdicts
from diagnose.verdict.evidence import readable
from diagnose.verdict.mixture import attribute

Array = np.ndarray


def shipped_rule() -> RuleConfig:
    """The rule in conf/rule/default.yaml, which also names its calibration."""
    return RuleConfig(**yaml.safe_load((ROOT / "conf" / "rule" / "default.yaml").read_text()))


@dataclass(frozen=True)
class Pool:
    """The items of one slice with known truth; slices and mixtures are drawn from pools of one family."""

    truth: str
    """One of CLASSES."""
    items: tuple[EvalItem, ...]
    family: str
    """Pools that can be mixed in one slice, because grader and judge are the same."""
    organism: str
    """How the gap was planted; pools of one organism are not independent."""
    held_out: bool
    """Not used for fitting."""


@dataclass(frozen=True)
class Recording:
    """The answers of one model, and the truth about its slices."""

    name: str
    pools: tuple[Pool, ...]
    log: AnswerLog

    def only(self, organisms: Collection[str]) -> Recording:
        """Restricted to the pools of these organisms."""
        return replace(self, pools=tuple(p for p in self.pools if p.organism in organisms))

    def organisms(self, held_out: bool) -> tuple[str, ...]:
        """Names of the organisms that are held out from fitting, or of those that are not."""
        return tuple(sorted({p.organism for p in self.pools if p.held_out == held_out}))


@cache
def recording(run: Path) -> Recording:
    """Load a finished diagnosis with the truth about its slices, from truth.json next to its eval set.

    truth.json: slice → verdict, kind and, optionally, family, organism, held_out and `took`. `took` is false if the
    checks did not confirm the planted gap; such a slice is left out.

    Raises:
        BadInput: the diagnosis is not finished, or truth.json is missing or incomplete.
    """
    if not (run / "diagnosis.json").exists():
        raise BadInput(f"{run}: contains no diagnosis.json; expected the out=DIR of a finished diagnosis")
    settings = json.loads((run / "run.json").read_text())["config"]["evalset"]
    beside = Path(settings["path"]).parent / "truth.json"
    if not beside.exists():
        raise BadInput(f'{beside}: missing; expected {{"SLICE": {{"verdict": "knowledge", "kind": "latent"}}, …}}')
    truth = json.loads(beside.read_text())
    evalset = read_evalset(EvalSetConfig(**settings))
    log = AnswerLog(run / "answers.jsonl", seed=0)
    # A mixture is one of items that could be read; those that could not are counted apart.
    read = [i for i in evalset.items if log.find("plain", i.id) and readable(i, log)]
    members = sorted(by_slice(read).items())
    if unknown := [name for name, _ in members if name not in truth]:
        raise BadInput(f"{beside}: no entry for {', '.join(unknown[:4])}; every slice needs a verdict")
    pools = [_pool(name, truth[name], part) for name, part in members if truth[name].get("took", True)]
    return Recording(run.parent.name, tuple(pools), log)


def _pool(name: str, truth: dict[str, Any], items: list[EvalItem]) -> Pool:
    kind = f"{truth['verdict']}_{truth['kind']}" if truth.get("kind") else truth["verdict"]
    family = truth.get("family") or ("tone" if items[0].judge else "form")
    if kind not in CLASSES:
        raise BadInput(f"truth.json: {name}: {kind!r} is not a class; verdict and kind of: {', '.join(CLASSES)}")
    mine = tuple(replace(i, slices=(name,)) for i in items)
    return Pool(kind, mine, family, truth.get("organism") or name, bool(truth.get("held_out")))


@dataclass(frozen=True)
class Planted:
    """One slice with known truth."""

    name: str
    organism: str
    """The organism of most of its items."""
    items: tuple[EvalItem, ...]
    shares: tuple[tuple[str, float], ...]
    """(class, share) in the population from which the items are drawn."""

    @property
    def mixture(self) -> Array:
        """Shares over CLASSES."""
        return np.array([dict(self.shares).get(c, 0.0) for c in CLASSES])

    @property
    def gaps(self) -> dict[str, float]:
        """Mass of each gap, as shown to users."""
        return {g: float(m[0]) for g, m in masses(self.mixture[None]).items()}

    @property
    def verdict(self) -> str:
        """The gap that most items have; `none` if no item has one."""
        return max(GAPS, key=lambda g: self.gaps[g]) if any(self.gaps.values()) else "none"

    @property
    def right(self) -> set[str]:
        """Correct verdicts: in a tie, each; also mixed if the second gap has 30 % or more (rule.mixed_share)."""
        _, second, first = sorted(self.gaps.values())
        top = {g for g, mass in self.gaps.items() if mass == first > 0} or {"none"}
        return top | ({"mixed"} if second >= 0.3 * sum(self.gaps.values()) > 0 else set())

    @property
    def kind(self) -> str | None:
        """Kind of the knowledge gap, if the slice has only one kind."""
        held = [c for c in KNOWLEDGE if c in dict(self.shares)]
        return held[0].removeprefix("knowledge_") if self.verdict == "knowledge" and len(held) == 1 else None


# ---------------------------------------------------------------- drawing


@dataclass(frozen=True)
class World:
    """A reproducible specification of an eval set of planted slices."""

    run: Path
    organisms: tuple[str, ...]
    shares: tuple[float, ...]
    """Shares of a slice's items; the first is for its lead class, the others for pools of other classes."""
    size: int
    """Items per slice."""
    seed: tuple[int, ...]
    leads: tuple[str, ...] = CLASSES
    """Classes that get one slice each."""
    rest: str | None = None
    """Class of the items beyond those of the lead class; None: any other class."""

    def draw(self) -> list[Planted]:
        """The slices, in random order; no question is in two of them."""
        rng = np.random.default_rng([*self.seed, self.size])
        return _drawn(self, recording(self.run).only(self.organisms), rng)


def _drawn(world: World, source: Recording, rng: np.random.Generator) -> list[Planted]:
    """The number of items per class in a slice is random too, as in any sample from a population."""
    asked: set[Any] = set()
    known = [c for c in world.leads if any(p.truth == c for p in source.pools)]
    counts = [rng.multinomial(world.size, world.shares) for _ in known]
    order = [str(lead) for lead in rng.permutation(known)]
    leads = [_lead(lead, source.pools, int(count[0]), rng) for lead, count in zip(order, counts, strict=True)]
    # Lead pools first, so that mixtures of other slices cannot use up their items.
    taken = [_take(lead, int(count[0]), asked, rng) for lead, count in zip(leads, counts, strict=True)]
    out = []
    for number, (lead, count, items) in enumerate(zip(leads, counts, taken, strict=True)):
        chosen = [lead]
        for k in range(1, len(world.shares)):
            others = _partners(chosen, source.pools, int(count[k]), asked, world.rest)
            if not others:
                raise BadInput(f"{source.name}: {world.shares} of {world.size}: no pool has {count[k]} items left")
            chosen.append(others[int(rng.integers(len(others)))])
            items = items + _take(chosen[-1], int(count[k]), asked, rng)
        name = f"{number} {'+'.join(p.organism for p in chosen)} {lead.family}"
        shares = tuple((p.truth, share) for p, share in zip(chosen, world.shares, strict=True))
        here = tuple(replace(i, slices=(name,)) for i in items)
        out.append(Planted(name, f"{source.name}/{lead.organism}", here, shares))
    return out


def _take(pool: Pool, count: int, asked: set[Any], rng: np.random.Generator) -> list[EvalItem]:
    """Random items of a pool whose questions are not yet in any slice."""
    free = _free(pool, asked)
    if len(free) < count:
        raise BadInput(f"{pool.organism}: {count} items needed, {len(free)} left; use smaller slices")
    taken = [free[k] for k in rng.permutation(len(free))[:count]]
    asked |= {i.turns for i in taken}
    return taken


def _free(pool: Pool, asked: set[Any]) -> list[EvalItem]:
    return [i for i in pool.items if i.turns not in asked]


def _lead(truth: str, pools: Sequence[Pool], count: int, rng: np.random.Generator) -> Pool:
    """A random pool of a random organism of the class, one with enough items if there is one."""
    every = [p for p in pools if p.truth == truth]
    leading = [p for p in every if len(p.items) >= count] or every
    organism = str(rng.choice(sorted({p.organism for p in leading})))
    mine = [p for p in leading if p.organism == organism]
    return mine[int(rng.integers(len(mine)))]


def _partners(
    chosen: list[Pool], pools: Sequence[Pool], count: int, asked: set[Any], only: str | None = None
) -> list[Pool]:
    """Pools of other classes (or of this one only) and the same family with enough items left."""
    known = {p.truth for p in chosen}
    fitting = [p for p in pools if p.truth not in known and p.family == chosen[0].family and only in (None, p.truth)]
    return [p for p in fitting if len(_free(p, asked)) >= count]


# ---------------------------------------------------------------- a worse reader


@dataclass(frozen=True)
class Reader:
    """Errors added to the reading of content, as shares of answers."""

    misses: float = 0.0
    """Of the right answers that are not word for word what production accepts: read as wrong."""
    invents: float = 0.0
    """Of the wrong answers: read as right content."""


def misread(log: AnswerLog, items: Sequence[EvalItem], reader: Reader) -> AnswerLog:
    """The log as this reader would have graded it.

    Like any program, it reads the same text of an item in the same way each time, so that samples do not average its
    errors out. What production accepts word for word stays as it is; where the reader itself decides what is accepted
    (`contains`), its errors are those of production's check too.
    """
    decides = {i.id for i in items if i.grader.kind == "contains"}

    def read(a: Answer) -> Answer:
        if a.lenient is None or a.strict is None or (a.strict and a.item not in decides):
            return a
        drawn = random.Random(f"{a.item} {a.text}").random()
        if drawn >= (reader.misses if a.lenient else reader.invents):
            return a
        return replace(a, lenient=not a.lenient, strict=not a.lenient and a.item in decides)

    return log.changed(read)


# ---------------------------------------------------------------- diagnosing


def judged(
    slices: list[Planted], log: AnswerLog, rule: RuleConfig, seed: int, settings: ProbesConfig | None = None
) -> list[dict[str, Any]]:
    """Diagnose every slice of an eval set; the results include the truth.

    Args:
        settings: which probes count as run; None: all.
    """
    items = [i for s in slices for i in s.items]
    evalset = EvalSet(items, {s.name: [] for s in slices}, "")
    log = log.part({i.id for i in items})
    found = attribute(evalset, log, settings or ProbesConfig(), rule, np.random.default_rng(seed))
    said = {v.slice: v for v in verdicts(evalset, log, found, rule)}
    return [compared(s, said[s.name], np.nan_to_num(found.draws[s.name])) for s in slices]


def compared(s: Planted, said: SliceVerdict, draws: Array) -> dict[str, Any]:
    """What was planted in a slice, and what the diagnosis and two simple rules say of it."""
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    single = {c: v for c, v in said.p_classes.items() if c != "mixed"}
    return {
        "slice": s.name,
        "organism": s.organism,
        "lead": s.shares[0][0],
        "n": len(s.items),
        "truth": s.verdict,
        "right": sorted(s.right),
        "kind": s.kind,
        "class": f"knowledge_{s.kind}" if s.kind else s.verdict,
        "verdict": said.verdict,
        "said_kind": said.kind,
        "p": said.p_verdict,
        "p_classes": single,
        "best": max(single, key=lambda c: single[c]) if single else None,
        "best_class": best_class(draws, single),
        "p_best": max(single.values(), default=0.0),
        "missing": list(said.missing),
        # Shares of 0 and 1 are on the boundary, so no interval of draws can contain them.
        "covered": [bool(a <= x <= b) for a, x, b in zip(low, s.mixture, high, strict=True) if 0 < x < 1],
        "error": float(np.abs(draws.mean(0) - s.mixture).mean()),
        "waterfall": threshold(said),
        "waterfall_class": threshold_class(said),
        "lenient_minus_strict": two_rates(said),
    }


def best_class(draws: Array, p: dict[str, float]) -> str | None:
    """The most probable class; for knowledge and format, the kind with the largest mean mass."""
    if not p:
        return None
    best = max(p, key=lambda c: p[c])
    kinds = {"knowledge": KNOWLEDGE, "format": FORMAT}.get(best, (best,))
    return max(kinds, key=lambda c: float(draws[:, CLASSES.index(c)].mean()))


# ---------------------------------------------------------------- baselines that read the same report


def threshold(said: SliceVerdict) -> str:
    """Baseline: the largest step of the waterfall names the gap if strict failures exceed 10 % (hand-set)."""
    steps = said.waterfall
    if not steps or steps["strict"] >= 0.9:
        lost = said.preferred is not None and said.preferred.k < 0.5 * said.preferred.n
        return "preference" if lost else "none"
    form = steps["lenient"] + steps["free"] + steps["few_shot"]
    return "format" if form >= steps["samples"] + steps["oracle_context"] + steps["rest"] else "knowledge"


def threshold_class(said: SliceVerdict) -> str:
    """Baseline over the six classes: of a knowledge gap, the largest step names the kind."""
    verdict = threshold(said)
    kinds = {"knowledge_latent": "samples", "knowledge_absent": "oracle_context", "knowledge_skill": "rest"}
    return verdict if verdict != "knowledge" else max(kinds, key=lambda kind: said.waterfall[kinds[kind]])


def two_rates(said: SliceVerdict) -> str:
    """Baseline: the usual comparison, lenient minus strict accuracy."""
    strict, lenient = (rate.k / rate.n if rate.n else 1.0 for rate in (said.strict, said.lenient))
    if strict >= 0.9:
        return "none"
    return "format" if lenient - strict >= 1 - lenient else "knowledge"
