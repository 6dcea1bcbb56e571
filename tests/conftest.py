"""A scripted model with planted gaps, and one real diagnosis of the demo that several tests share."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diagnose.records import DiagnosisRun

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch: the workers share the cores

import pytest
from verbs import run_verb

from diagnose.config import DiagnoseConfig, EvalSetConfig, RuleConfig
from diagnose.models.base import Completion, Constraint, Score
from diagnose.records import EvalItem, Prompt
from diagnose.verdict.calibration import calibrated
from scripts.planted.slices import shipped_rule

ROOT = Path(__file__).resolve().parent.parent
VALUES = [f"value{i}" for i in range(20)]
WANTED_TONE = "Gladly, "


SLOW_FIRST = (
    "test_train",
    "test_ready_sets",
    "test_flow",
    "test_bad_input",
    "test_served",
    "test_real",
    "test_gguf",
    "test_recommend",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: SLOW_FIRST.index(item.path.stem) if item.path.stem in SLOW_FIRST else len(SLOW_FIRST))


@pytest.fixture(scope="session", autouse=True)
def quiet_environment() -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "offline"}


@pytest.fixture(scope="session")
def rule() -> RuleConfig:
    """As shipped, with its calibration."""
    return calibrated(shipped_rule())


@pytest.fixture(scope="session")
def believed() -> RuleConfig:
    """Without its calibration, after which twenty items that are all right do not suffice for `none`."""
    return replace(shipped_rule(), calibration=None)


@pytest.fixture(scope="session")
def demo_diagnosis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished diagnosis of the demo."""
    out = tmp_path_factory.mktemp("demo") / "diagnosis"
    done = run_verb("diagnose", f"out={out}")
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def planted_rows(classes: dict[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Rows of an eval set, one per entry: slice → the true class of each of its items."""
    rows = []
    for name, members in classes.items():
        for i, truth in enumerate(members):
            gold = VALUES[i % len(VALUES)]
            others = [v for v in VALUES if v != gold][i % 7 : i % 7 + 5]
            tone = {"judge": {"kind": "rule", "prefer": f"^{WANTED_TONE}"}} if truth in ("preference", "liked") else {}
            row = {
                "id": f"{name}-{i}",
                "slice": name,
                "prompt": f"[{truth}] What is the value of {name} {i}?",
                "target": gold,
                "grader": {"kind": "contains" if tone else "exact"} | tone,
                "distractors": others,
                "context": f"It is written that {name} {i} has {gold}.",
                "statement": f"The value of {name} {i} is",
            }
            if truth == "format":
                row["grader"] = {"kind": "json"}
                row["target"] = json.dumps({"value": gold})
                row["distractors"] = [json.dumps({"value": v}) for v in others]
            if tone:
                row |= {"chosen": WANTED_TONE + gold, "rejected": gold}
            rows.append(row)
    return rows


class ScriptedModel:
    """Knows, misshapes, half remembers, lacks or cannot do, as the bracket in the prompt says (the planted truth)."""

    batch_size = 64
    max_new_tokens = 16
    device = "scripted"
    fingerprint = None
    lacks: frozenset[str] = frozenset()

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = {row["prompt"]: row for row in rows}
        self.by_statement = {row["statement"]: row for row in rows if "statement" in row}
        self.asked = 0

    @property
    def prompt_format(self) -> dict[str, Any]:
        return {"scripted": True}

    def check(self, items: Sequence[EvalItem]) -> None:
        pass

    def check_end_token(self, items: Sequence[EvalItem], seed: int) -> None:
        pass

    def fits(self, prompt: Prompt, continuation: str | None = None) -> bool:
        return True

    def generate(
        self,
        prompts: Sequence[Prompt],
        keys: Sequence[str],
        n: int = 1,
        first: int = 0,
        temperature: float = 0.0,
        constraints: Sequence[Constraint] | None = None,
    ) -> list[list[Completion]]:
        self.asked += len(prompts) * n
        return [
            [
                Completion(self._say(p, random.Random(f"{k}|{d}"), temperature), 3, "stop")
                for d in range(first, first + n)
            ]
            for p, k in zip(prompts, keys, strict=True)
        ]

    def logprob(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Score]:
        self.asked += len(prompts)
        return [self._score(p, c) for p, c in zip(prompts, continuations, strict=True)]

    def _say(self, prompt: Prompt, rng: random.Random, temperature: float) -> str:
        question = prompt.turns[-1][1].split("\n\n")[-1]
        context = prompt.turns[-1][1].removesuffix(question)
        row = self.rows[question]
        truth, gold = question[1 : question.index("]")], _content(row["target"])
        if truth in ("latent", "absent", "skill"):
            if truth != "skill" and context:
                return next((v for v in context.rstrip(". \n").split()[::-1] if v in VALUES), "nothing")
            half_known = truth == "latent" and temperature > 0 and rng.random() < 0.3
            return gold if half_known else rng.choice([v for v in VALUES if v != gold])
        if truth == "format":
            few_shot = any(role == "assistant" and text.startswith("{") for role, text in prompt.turns)
            return json.dumps({"value": gold}) if few_shot else f"I believe that it is {gold}."
        if truth == "liked":
            return WANTED_TONE + gold
        return WANTED_TONE + gold if truth == "preference" and temperature > 0 and rng.random() < 0.15 else gold

    def _score(self, prompt: Prompt, continuation: str) -> Score:
        text = prompt.turns[-1][1]
        row = self.by_statement.get(text) if prompt.raw else self.rows.get(text)
        if row is None:
            return Score(-5.0, 1)
        truth = row["prompt"][1 : row["prompt"].index("]")]
        stored = truth not in ("absent", "skill") and (truth != "latent" or prompt.raw)
        noise = random.Random(f"{text}|{continuation}").random()
        right = _content(row["target"]) == _content(continuation.strip())
        return Score((-1.0 if right else -6.0) if stored else -3.0 - noise, 1)


def _content(text: str) -> str:
    return str(json.loads(text)["value"]) if text.startswith("{") else text.removeprefix(WANTED_TONE)


def run_record(seed: int = 0) -> DiagnosisRun:
    """The record of a scripted diagnosis."""
    return DiagnosisRun(
        command=["diagnose.py"], config={}, commit=None, dirty=False, versions={}, python="3.11", seed=seed, started="",
        identity={"seed": str(seed)}, fingerprint=None, prompt_format={}, prompt_format_sha="scripted",
    )  # fmt: skip


@pytest.fixture
def diagnose_scripted(tmp_path: Path, rule: RuleConfig) -> Iterator[Any]:
    """Diagnose a scripted model on planted rows: classes → Diagnosis."""
    from diagnose.adaptive import spend
    from diagnose.items.evalset import read_evalset
    from diagnose.probes.answers import AnswerLog
    from diagnose.probes.judge import Judges
    from diagnose.run import conclude

    def diagnose(
        rows: list[dict[str, Any]], seed: int = 0, model: Any = ScriptedModel, demand: str | None = None, **probes: Any
    ) -> Any:
        path = tmp_path / f"evalset_{seed}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        chosen = EvalSetConfig(path=str(path), format_demand=demand)
        config = DiagnoseConfig(evalset=chosen, rule=rule, seed=seed, out=str(tmp_path / "out"))
        for key, value in probes.items():
            setattr(config.probes, key, value)
        evalset = read_evalset(config.evalset)
        judges = Judges(config.judge)
        log = AnswerLog(tmp_path / f"answers_{seed}.jsonl", seed, read=judges.read)
        evalset = spend(model(rows), evalset, config.probes, rule, log, judges)
        return conclude(config, evalset, log, run_record(seed), {})[0]

    yield diagnose
