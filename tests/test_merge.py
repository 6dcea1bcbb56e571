"""Merging: what is written is what was computed, for every kind of adapter; what cannot be merged is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT, run_verb
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from diagnose.errors import BadInput, Blocked
from train.deltas import Adapter, Delta, _slerp, _trimmed, combine, overlap, read_adapter, save_adapter
from train.merge import _check_whole

MODEL = ROOT / "tests" / "data" / "demo" / "model"
IDS = torch.tensor([[1, 10, 20, 30, 40]])
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"layers.0.self_attn.v_proj": 3}},
    "modules_to_save": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "tied embeddings": {"target_modules": ["q_proj", "v_proj"]},
}


def base_of(kind: str, folder: Path) -> str:
    """A small network with random weights."""
    config = AutoConfig.from_pretrained(MODEL)
    config.tie_word_embeddings = kind == "tied embeddings"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def adapter_of(base: str, folder: Path, seed: int, **settings: Any) -> str:
    """An adapter whose every weight is random, as if it had been trained."""
    torch.manual_seed(seed)
    lora = LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), lora)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return str(folder)


def logits(base: str, adapter: str) -> torch.Tensor:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
    with torch.inference_mode():
        found: torch.Tensor = model(IDS).logits
    return found


@pytest.mark.parametrize("kind", list(KINDS))
def test_one_adapter_merged_alone_is_itself(kind: str, tmp_path: Path) -> None:
    """PEFT's add_weighted_adapter fails this silently for two of these kinds."""
    base = base_of(kind, tmp_path / "base")
    path = adapter_of(base, tmp_path / "one", 1, **KINDS[kind])
    alone, lost = combine([read_adapter(path)], "linear", [1.0], 1.0, 0)
    save_adapter(alone, base, tmp_path / "merged")
    assert lost == 0
    assert (logits(base, path) - logits(base, str(tmp_path / "merged"))).abs().max() < 1e-5


def test_a_sum_of_adapters_is_the_sum_of_their_deltas(tmp_path: Path) -> None:
    """Of other ranks, scalings and modules."""
    base = base_of("plain", tmp_path / "base")
    kinds: list[dict[str, Any]] = [{}, {"r": 8, "use_rslora": True}, {"r": 2, "target_modules": ["q_proj"]}]
    found = [read_adapter(adapter_of(base, tmp_path / str(k), k, **kind)) for k, kind in enumerate(kinds)]
    weights = [1.0, 0.5, -2.0]
    merged, _ = combine(found, "linear", weights, 1.0, 0)
    save_adapter(merged, base, tmp_path / "merged")
    reread = read_adapter(str(tmp_path / "merged"))
    for name in found[0].deltas:
        wanted = sum(w * a.deltas[name].full for w, a in zip(weights, found, strict=True) if name in a.deltas)
        assert (reread.deltas[name].full - wanted).abs().max() < 1e-5, name
    assert any(name.endswith("q_proj") and len(delta.down) == 14 for name, delta in reread.deltas.items())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"use_dora": True}, "lora.use_dora: DoRA scales whole columns"),
        ({"lora_bias": True, "target_modules": ["q_proj"]}, "lora.lora_bias: its biases"),
        ({"bias": "all"}, "lora.bias=all: biases are no part of a delta"),
        ({"target_modules": ["embed_tokens"]}, "only deltas of linear layers can be merged"),
    ],
)
def test_what_is_no_delta_is_refused(settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    base = base_of("plain", tmp_path / "base")
    with pytest.raises(BadInput, match=says):
        read_adapter(adapter_of(base, tmp_path / "one", 1, **settings))


def test_a_module_that_two_runs_replace_blocks() -> None:
    one = Adapter("a", {}, {"lm_head.weight": torch.zeros(2, 2)})
    with pytest.raises(Blocked, match=r"lm_head.weight is saved whole \(modules_to_save\) by run_a and by run_b"):
        _check_whole([one, one], ["run_a", "run_b"])


def flat(*values: float) -> Adapter:
    """One module whose delta is a row of these values."""
    down = torch.tensor([list(values)])
    return Adapter("", {"m": Delta(torch.ones(1, 1), down)}, {})


def merged_row(how: Any, *rows: Adapter, weights: list[float] | None = None, density: float = 1.0) -> list[float]:
    found, lost = combine(rows, how, weights or [1.0] * len(rows), density, 0)
    assert lost < 1e-9, "one row has rank one"
    values: list[float] = found.deltas["m"].full[0].tolist()
    return [round(value, 5) for value in values]


def test_ties_elects_a_sign_and_averages_those_that_agree() -> None:
    """Arithmetic by hand, after arXiv 2306.01708."""
    assert merged_row("ties", flat(4.0, -2.0, 1.0), flat(2.0, 3.0, -1.0)) == [3.0, 3.0, 0.0]
    assert merged_row("ties", flat(4.0, -2.0, 1.0), flat(2.0, 3.0, -1.0), density=1 / 3) == [4.0, 3.0, 0.0]
    assert _trimmed(torch.tensor([[1.0, -3.0, 2.0, 0.5]]), 0.5).tolist() == [[0.0, -3.0, 2.0, 0.0]]


def test_dare_keeps_the_mean_and_depends_on_the_seed_alone() -> None:
    many = flat(*[1.0] * 4000)
    found, again, other = (combine([many], "dare", [1.0], 0.25, seed)[0].deltas["m"].full for seed in (0, 0, 1))
    assert torch.equal(found, again) and not torch.equal(found, other)
    assert set(found.round(decimals=4).flatten().tolist()) == {0.0, 4.0}
    assert abs(float(found.mean()) - 1) < 0.1


def test_slerp_goes_along_the_circle_and_soup_is_the_mean() -> None:
    assert merged_row("slerp", flat(1.0, 0.0), flat(0.0, 1.0)) == [0.70711, 0.70711]
    assert merged_row("slerp", flat(1.0, 0.0), flat(0.0, 1.0), weights=[3.0, 1.0]) == [0.92388, 0.38268]
    assert merged_row("slerp", flat(2.0, 2.0), flat(4.0, 4.0)) == [3.0, 3.0]
    assert merged_row("soup", flat(2.0, 2.0), flat(4.0, 0.0), weights=[0.5, 0.5]) == [3.0, 1.0]
    assert _slerp(torch.zeros(2), torch.ones(2), 0.5).tolist() == [0.5, 0.5]


def test_slerp_of_a_module_that_only_one_run_changes_is_half_of_it() -> None:
    one, two = flat(2.0, 4.0), Adapter("", {"other": Delta(torch.ones(1, 1), torch.ones(1, 2))}, {})
    found, _ = combine([one, two], "slerp", [1.0, 1.0], 1.0, 0)
    assert found.deltas["m"].full[0].tolist() == pytest.approx([1.0, 2.0])
    assert found.deltas["other"].full[0].tolist() == pytest.approx([0.5, 0.5])


def test_how_two_adapters_overlap() -> None:
    found = overlap(flat(3.0, 4.0), flat(-3.0, 4.0))
    assert (found.sign_conflict, found.norms) == (0.5, (5.0, 5.0)) and found.cosine == pytest.approx(7 / 25)


@pytest.fixture(scope="module")
def parents(demo_diagnosis: Path) -> list[Path]:
    """Two short runs."""
    outs = []
    for seed in (0, 1):
        out = demo_diagnosis.parent / f"parent_{seed}"
        short = ["method=sft", "data.slices=[stone_json]", "method.args.max_steps=4", "watch.every=0", f"seed={seed}"]
        done = run_verb("train", f"diagnosis={demo_diagnosis}", *short, f"out={out}", "wandb.mode=disabled")
        assert done.returncode == 0, done.stderr[-2000:]
        outs.append(out)
    return outs


def test_a_merge_is_an_ordinary_run_that_eval_compares(demo_diagnosis: Path, parents: list[Path]) -> None:
    out = demo_diagnosis.parent / "merged"
    both = f"merge.runs=[{','.join(map(str, parents))}]"
    command = [f"diagnosis={demo_diagnosis}", "method=merge", both, f"out={out}", "wandb.mode=disabled"]
    done = run_verb("train", *command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"runs={out}" in done.stdout and "these numbers predict little" in done.stderr
    run = json.loads((out / "run.json").read_text())
    assert (run["status"], run["method"]) == ("finished", "merge")
    assert run["merge"]["parity"]["differ"] == 0 and run["merge"]["parity"]["identity"] < 1e-5
    assert set(run["merge"]["predicted"]) == {"stone_json"} and run["merge"]["predicted"]["stone_json"] > 0.9
    compared = run_verb(
        "eval", f"diagnosis={demo_diagnosis}", f"runs={out}", f"out={out}_eval", "arms=[]", "wandb.mode=disabled"
    )
    assert compared.returncode == 0, compared.stderr[-2000:]
    comparison = json.loads((Path(f"{out}_eval") / "comparison.json").read_text())
    found = comparison["runs"]
    assert [row["method"] for row in found] == ["merge"] and comparison["retention"] == []
    assert {s["slice"] for s in found[0]["slices"] if s["role"] == "target"} == {"stone_json"}


class Scored:
    """A measurement whose answers are given: item → right, wrong or unread."""

    def __init__(self, right: dict[str, bool | None]) -> None:
        self.right = right
        self.items = {name: SimpleNamespace(id=name, slices=("s",), cluster=None) for name in right}

    def without(self, ids: list[str]) -> Scored:
        return Scored({name: right for name, right in self.right.items() if name not in ids})

    def success(self, item: str) -> bool | None:
        return self.right[item]


def scored(count: int, of: int = 80) -> Any:
    return Scored({f"i{k}": k < count for k in range(of)})


@pytest.mark.parametrize(
    ("parent", "merged", "ratio", "verdict"),
    [(80, 80, 1.0, "kept"), (80, 40, 0.5, "lost"), (80, 76, 0.95, "unsure"), (0, 0, None, None), (2, 80, None, None)],
)
def test_what_a_merge_keeps_of_a_run(
    parent: int, merged: int, ratio: float | None, verdict: str | None, tmp_path: Path
) -> None:
    """A run that gained nothing beyond chance has nothing to be kept."""
    from eval.retention import retention

    trained: Any = SimpleNamespace(merge=None, data={"sft": {"rows": {"s": 40, "": 3}}}, excluded_items=[])
    merge: Any = SimpleNamespace(
        merge={"runs": [str(tmp_path / "a"), str(tmp_path / "elsewhere")]}, data={}, excluded_items=[]
    )
    measured = {str(tmp_path / "a"): scored(parent), str(tmp_path / "m"): scored(merged)}
    rows = retention([(tmp_path / "a", trained), (tmp_path / "m", merge)], scored(0), measured)
    if ratio is None:
        assert rows == []
        return
    (row,) = rows
    trained.excluded_items = ["i0", "i1"]
    assert retention([(tmp_path / "a", trained), (tmp_path / "m", merge)], scored(0), measured)[0]["n"] == 78
    found = row["retention"]
    assert (row["verdict"], row["slice"], row["n"]) == (verdict, "s", 80) and found["ratio"] == ratio
    assert found["low"] < ratio < found["high"], "eighty items that agree are no proof"


def test_a_merge_of_what_is_not_there_or_of_another_base_is_refused(demo_diagnosis: Path, parents: list[Path]) -> None:
    start = [f"diagnosis={demo_diagnosis}", "method=merge", "wandb.mode=disabled"]
    cases: tuple[tuple[list[Any], str], ...] = (
        ([parents[0]], "merge.runs: 1 runs; linear merges two or more"),
        (
            [parents[0], demo_diagnosis.parent / "none"],
            "contains no run.json; expected the directory of a finished run",
        ),
        ([parents[0], demo_diagnosis], "run.json"),
        ([*parents, "merge.how=soup", "merge.weights=[1,-1]"], "soup divides by their sum, which must be more than 0"),
    )
    for runs, says in cases:
        named, settings = ([x for x in runs if ("=" in str(x)) is more] for more in (False, True))
        done = run_verb("train", *start, f"merge.runs=[{','.join(map(str, named))}]", *map(str, settings))
        assert done.returncode == 2 and says in done.stderr, done.stderr


def test_a_merge_that_was_not_written_as_computed_ends_with_3(
    demo_diagnosis: Path, parents: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from diagnose.items.evalset import read_evalset
    from train import merge as merging
    from train.config import MergeConfig, MethodConfig, TrainConfig, measured_config, read_diagnosis

    diagnosis = read_diagnosis(str(demo_diagnosis))
    then = measured_config(diagnosis)
    runs = MergeConfig(runs=list(map(str, parents)))
    out = tmp_path / "merged"
    config = TrainConfig(str(demo_diagnosis), MethodConfig("merge"), then.model, merge=runs, out=str(out))

    def damaged(adapter: Adapter, base: str, folder: Path) -> None:
        save_adapter(adapter, base, folder)
        if folder.name == "adapter":
            file = folder / "adapter_model.safetensors"
            weights = load_file(file)
            name = next(n for n in weights if "lora_B" in n)
            save_file(weights | {name: weights[name] * 1.01 + 0.01}, file, {"format": "pt"})

    monkeypatch.setattr(merging, "save_adapter", damaged)
    with pytest.raises(Blocked, match="what was written is not what was computed"):
        merging.merge(config, diagnosis, then.model, read_evalset(then.evalset))
    assert json.loads((out / "run.json").read_text())["status"] == "blocked"
