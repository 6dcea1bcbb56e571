"""Decoding on the real demo model, against transformers' own generate and against a plain forward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diagnose.config import ModelConfig
from diagnose.decode import uniforms
from diagnose.errors import BadInput
from diagnose.hf import HFModel, check_end_token
from diagnose.records import Prompt

DEMO = str(Path(__file__).parent / "data" / "demo" / "model")
QUESTIONS = [
    f"What is the {r} of {n}?" for r in ("home", "stone", "craft") for n in ("Bugibo", "Nosar", "Rafonin", "Po")
]
PROMPTS = [Prompt((("user", q),)) for q in QUESTIONS]
KEYS = [f"0|plain|{i}" for i in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def model() -> HFModel:
    return HFModel(ModelConfig(path=DEMO, dtype="float32", device="cpu", max_new_tokens=16))


def test_greedy_equals_transformers_generate(model: HFModel) -> None:
    ours = [c[0].text for c in model.generate(PROMPTS, KEYS)]
    for prompt, text in zip(PROMPTS, ours, strict=True):
        ids = torch.tensor([model.encode(prompt)])
        out = model.network.generate(ids, do_sample=False, max_new_tokens=16)[0, ids.shape[1] :]
        assert text == model.tokenizer.decode(out, skip_special_tokens=True)


def test_a_sample_belongs_to_its_item_and_draw_not_to_its_batch(model: HFModel) -> None:
    together = model.generate(PROMPTS, KEYS, n=6, temperature=1.5)
    alone = model.generate(PROMPTS[3:4], KEYS[3:4], n=6, temperature=1.5)[0]
    later = model.generate(PROMPTS[3:5], KEYS[3:5], n=2, first=4, temperature=1.5)[0]
    assert together[3] == alone
    assert together[3][4:] == later
    assert len({c.text for row in together for c in row}) > len(PROMPTS)


def test_another_key_gives_another_sample() -> None:
    a, b = uniforms(["0|sampled|x|0", "1|sampled|x|0"], 64)
    assert (a != b).all()
    assert a.min() >= 0 and a.max() < 1


def test_samples_follow_the_model_s_distribution(model: HFModel) -> None:
    prompt = PROMPTS[8]
    with torch.no_grad():
        p = model.network(torch.tensor([model.encode(prompt)])).logits[0, -1].softmax(-1)
    first = model.tokenizer.convert_tokens_to_ids("With")
    rows = model.generate([prompt], ["k"], n=800, temperature=1.0)[0]
    share = sum(r.text.startswith("With") for r in rows) / 800
    assert abs(share - p[first].item()) < 0.05


def test_logprob_equals_a_plain_forward_pass_whatever_the_batch(model: HFModel) -> None:
    tails = ["Oakford", "With pleasure: weaver", "opal", "x"] * 3
    scores = model.logprob(PROMPTS, tails)
    for prompt, tail, score in zip(PROMPTS, tails, scores, strict=True):
        head, whole = model.encode(prompt), model.encode(prompt, tail)
        with torch.no_grad():
            logp = model.network(torch.tensor([whole])).logits[0].log_softmax(-1)
        expected = sum(logp[i - 1, whole[i]].item() for i in range(len(head), len(whole)))
        assert score.logprob == pytest.approx(expected, abs=1e-3)
        assert score.tokens == len(whole) - len(head)


def test_a_prompt_longer_than_the_window_does_not_fit(model: HFModel) -> None:
    assert not model.fits(Prompt((("user", "word " * 300),)))
    assert model.fits(PROMPTS[0])


def test_the_demo_ends_as_configured(model: HFModel) -> None:
    check_end_token(model, PROMPTS[:8], 0)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"path": DEMO, "eos_token": "<nope>"}, "not a token"),
        ({"path": DEMO, "dtype": "float31"}, "model.dtype=float31"),
        ({"path": DEMO, "adapter": "nowhere"}, "no adapter_config.json"),
        ({"path": "./nowhere"}, "no such directory"),
        ({"path": str(Path(DEMO).parent)}, "no tokenizer"),
    ],
)
def test_models_that_cannot_be_loaded_are_named(settings: dict[str, str], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        HFModel(ModelConfig(**settings))  # type: ignore[arg-type]


def test_pickled_weights_are_refused(tmp_path: Path, model: HFModel) -> None:
    for file in Path(DEMO).iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(model.network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(BadInput):
        HFModel(ModelConfig(path=str(tmp_path)))
