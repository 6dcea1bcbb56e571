"""Decoding on the real demo model, against transformers' own generate and against a plain forward pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diagnose.config import ModelConfig
from diagnose.errors import BadInput, Blocked, RunFailed
from diagnose.models.decode import uniforms
from diagnose.models.hf import HFModel, check_end_token
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
    a, b = uniforms(["0|samples|x|0", "1|samples|x|0"], 64)
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


SHOTS = tuple(
    turn
    for name, place in (("Nosar", "Oakford"), ("Bugibo", "Kelso"), ("Rafonin", "Selby"))
    for turn in (("user", f"What is the home of {name}?"), ("assistant", place))
)
BEHIND = [Prompt((*SHOTS, ("user", q))) for q in QUESTIONS]


def test_what_prompts_share_is_read_once_and_changes_nothing(model: HFModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from diagnose.models import prefill

    shared = prefill._shared([model.encode(p) for p in BEHIND])
    assert shared >= len(model.encode(Prompt(SHOTS[:-1])))
    together = model.generate(BEHIND, KEYS), model.logprob(BEHIND, ["opal pearl"] * len(BEHIND))
    read = []
    monkeypatch.setattr(prefill, "_shared", lambda prompts: read.append(len(prompts)) or 0)
    apart = model.generate(BEHIND, KEYS), model.logprob(BEHIND, ["opal pearl"] * len(BEHIND))
    assert read
    assert together[0] == apart[0]
    for a, b in zip(together[1], apart[1], strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)


def test_exemplars_are_remembered_and_never_mistaken_for_others(
    model: HFModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = [Prompt((*SHOTS[2:], ("user", q))) for q in QUESTIONS]
    first, unlike = model.generate(BEHIND, KEYS), model.generate(other, KEYS)
    widths = []
    forward = model.network.forward

    def counted(input_ids: torch.Tensor, **rest: object) -> object:
        widths.append(input_ids.shape)
        return forward(input_ids=input_ids, **rest)

    monkeypatch.setattr(model.network, "forward", counted)
    again = [row for at in (slice(0, 6), slice(6, 12)) for row in model.generate(BEHIND[at], KEYS[at])]
    assert again == first
    assert sum(rows == 1 and width > 8 for rows, width in widths) == 1
    assert model.generate(other, KEYS) == unlike


@pytest.mark.parametrize("questions", [QUESTIONS, QUESTIONS[:1] * 4], ids=["padded", "of one length"])
def test_a_cache_that_grows_in_place_changes_nothing(model: HFModel, questions: list[str]) -> None:
    from diagnose.models.decode import ROOMY

    prompts = [Prompt((*SHOTS * 3, ("user", q))) for q in questions]
    ours = [c[0].text for c in model.generate(prompts, KEYS[: len(prompts)])]
    for prompt, text in zip(prompts, ours, strict=True):
        ids = torch.tensor([model.encode(prompt)])
        assert ids.shape[1] >= ROOMY
        out = model.network.generate(ids, do_sample=False, max_new_tokens=16)[0, ids.shape[1] :]
        assert text == model.tokenizer.decode(out, skip_special_tokens=True)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_grouped_queries_and_other_kernels_see_the_same(attention: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from diagnose.models.decode import decode
    from diagnose.models.prefill import Reader

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
    config = LlamaConfig(**small, num_attention_heads=4, num_key_value_heads=2, attn_implementation=attention)
    network = LlamaForCausalLM(config).eval()
    reader = Reader(network, 0)
    for prompts in ([[5, 6, 7], [8, 9], [10, 11, 12, 13]], [[5, 6, 7], [8, 9, 10]]):
        ours = decode(reader, prompts, copies=2, steps=12, ends={-1})
        for k, prompt in enumerate(prompts):
            alone = network.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12, eos_token_id=None)
            assert ours[2 * k] == ours[2 * k + 1] == alone[0, len(prompt) :].tolist()


def test_a_sliding_window_shares_nothing() -> None:
    from types import SimpleNamespace

    from transformers import LlamaConfig, MistralConfig

    from diagnose.models.prefill import _sees_everything

    assert _sees_everything(SimpleNamespace(config=LlamaConfig()))
    assert not _sees_everything(SimpleNamespace(config=MistralConfig(sliding_window=64)))


def test_options_of_one_prompt_are_scored_as_if_alone(model: HFModel) -> None:
    options = ["Oakford", "With pleasure: weaver", "opal", "opal ruby jade"]
    together = model.logprob([p for p in PROMPTS[:3] for _ in options], options * 3)
    alone = [model.logprob([p], [o])[0] for p in PROMPTS[:3] for o in options]
    for a, b in zip(together, alone, strict=True):
        assert (a.tokens, a.logprob) == (b.tokens, pytest.approx(b.logprob, abs=1e-4))


class NoDoubles(TorchDispatchMode):
    """Refuses what Apple's GPU refuses: 64-bit floats."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(isinstance(t, torch.Tensor) and t.dtype == torch.float64 for t in tree_leaves(out)):
            raise TypeError(f"{func} makes 64-bit floats")
        return out


def test_nothing_needs_what_apple_s_gpu_lacks(model: HFModel) -> None:
    with NoDoubles():
        with pytest.raises(TypeError, match="64-bit"):
            torch.ones(1).double()
        model.generate(PROMPTS, KEYS, n=2, temperature=1.0)
        model.logprob(PROMPTS, ["With pleasure: weaver"] * len(PROMPTS))


def test_scores_do_not_depend_on_how_many_are_held_at_once(model: HFModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from diagnose.models import decode

    tails = ["Oakford", "With pleasure: weaver", "opal ruby jade"] * 4
    whole = model.logprob(PROMPTS, tails)
    monkeypatch.setattr(decode, "AT_ONCE", 1)
    assert [s.logprob for s in model.logprob(PROMPTS, tails)] == pytest.approx([s.logprob for s in whole], abs=1e-6)


def test_a_batch_that_does_not_fit_is_halved_and_says_the_same(
    model: HFModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from diagnose.models import decode

    whole = model.generate(PROMPTS, KEYS, n=5, temperature=1.0), model.logprob(PROMPTS, ["opal"] * len(PROMPTS))
    real_decode, real_score, sizes = decode.decode, decode.score, []

    def small(rows: int) -> None:
        sizes.append(rows)
        if rows > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    def tight_decode(network: object, prompts: list[list[int]], *, copies: int, **rest: object) -> object:
        small(len(prompts) * copies)
        return real_decode(network, prompts, copies=copies, **rest)  # type: ignore[arg-type]

    def tight_score(network: object, heads: list[list[int]], *rest: object) -> object:
        small(len(heads))
        return real_score(network, heads, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(decode, "decode", tight_decode)
    monkeypatch.setattr(decode, "score", tight_score)
    assert model.generate(PROMPTS, KEYS, n=5, temperature=1.0) == whole[0]
    for a, b in zip(model.logprob(PROMPTS, ["opal"] * len(PROMPTS)), whole[1], strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
    assert max(sizes) > 4
    assert capsys.readouterr().err.count("ran out of memory") == 1


TIGHT = """
import resource
from pathlib import Path
from diagnose.config import ModelConfig
from diagnose.models.hf import HFModel
from diagnose.records import Prompt

model = HFModel(ModelConfig(path="tests/data/demo/model", dtype="float32", device="cpu", max_new_tokens=16))
prompts = [Prompt((("user", f"What is the home of {a}{b}?"),)) for a in ("Bu", "No", "Ra") for b in range(32)]
keys = [str(k) for k in range(len(prompts))]
whole = model.generate(prompts, keys, n=16, temperature=1.0)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), -1))
print(model.generate(prompts, keys, n=16, temperature=1.0) == whole)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of the address space is Linux's")
def test_a_batch_that_really_does_not_fit_is_halved_and_says_the_same() -> None:
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", TIGHT], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    assert done.stderr.count("ran out of memory on cpu; retrying with") == 1


def test_what_fits_in_no_batch_is_said(model: HFModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from diagnose.models import decode

    def never(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(decode, "decode", never)
    with pytest.raises(RunFailed, match="out of memory on one prompt"):
        model.generate(PROMPTS[:3], KEYS[:3], n=2, temperature=1.0)


def tight(real: Any, most: int) -> Any:
    """A function of a batch that runs out of memory with more than so many rows."""

    def work(*args: Any, **rest: Any) -> Any:
        rows = next(a for a in args if isinstance(a, list))
        if len(rows) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(*args, **rest)

    return work


def test_a_reward_model_s_batch_is_halved_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from diagnose.models.reward import RewardModel

    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(DEMO, num_labels=1).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(DEMO).save_pretrained(tmp_path)
    judge = RewardModel(str(tmp_path), device="cpu")
    whole = judge.logprob(PROMPTS, ["opal"] * len(PROMPTS))
    monkeypatch.setattr(judge, "_scored", tight(judge._scored, 5))
    halved = judge.logprob(PROMPTS, ["opal"] * len(PROMPTS))
    assert [s.logprob for s in halved] == pytest.approx([s.logprob for s in whole], abs=1e-5)
    assert len({round(s.logprob or 0.0, 4) for s in whole}) > 6
    assert capsys.readouterr().err == "batch of 12 ran out of memory on cpu; retrying with 6\n"
    monkeypatch.setattr(judge, "_scored", tight(judge._scored, 0))
    with pytest.raises(RunFailed, match="out of memory on a single text on cpu"):
        judge.logprob(PROMPTS, ["opal"] * len(PROMPTS))


def test_forced_answers_have_the_form_whatever_the_model_likes(model: HFModel) -> None:
    import json

    value = {"type": "string", "enum": ["opal", "ruby"]}
    schema = {"type": "object", "properties": {"stone": value}, "required": ["stone"], "additionalProperties": False}
    constraints = [{"schema": schema}, {"choices": ["yes, indeed", "no"]}] * 6
    for rows in model.generate(PROMPTS, KEYS, n=3, temperature=2.0, constraints=constraints)[::2]:
        assert {json.loads(c.text)["stone"] for c in rows} <= {"opal", "ruby"}
    for rows in model.generate(PROMPTS, KEYS, n=3, temperature=2.0, constraints=constraints)[1::2]:
        assert {c.text for c in rows} <= {"yes, indeed", "no"}
    free = [rows[0].text for rows in model.generate(PROMPTS, KEYS)]
    assert not any(text.startswith("{") for text in free)


def test_a_schema_that_cannot_be_followed_is_named(model: HFModel) -> None:
    with pytest.raises(BadInput, match="cannot be constrained"):
        model.generate(PROMPTS[:1], KEYS[:1], constraints=[{"schema": {"type": "string", "pattern": "(?=x)y"}}])


def test_a_prompt_longer_than_the_window_does_not_fit(model: HFModel) -> None:
    assert not model.fits(Prompt((("user", "word " * 300),)))
    assert model.fits(PROMPTS[0])


class Ends:
    """Stands for a model whose free continuations end with these tokens, each after so many seconds."""

    def __init__(self, model: HFModel, *tokens: str | None, seconds: float = 1.0) -> None:
        self.settings, self.tokenizer, self.ends = model.settings, model.tokenizer, model.ends
        self.tokens, self.seconds, self.now, self.keys = tokens, seconds, 0.0, list[str]()

    def emitted_special(self, prompt: Prompt, key: str) -> str | None:
        self.keys.append(key)
        self.now += self.seconds
        return self.tokens[len(self.keys) - 1]


def test_the_demo_ends_as_configured(model: HFModel, capsys: pytest.CaptureFixture[str]) -> None:
    check_end_token(model, PROMPTS[:8], 0)
    assert capsys.readouterr().err.startswith("checking the end token …")


@pytest.mark.parametrize(
    ("tokens", "seconds", "tried"),
    [
        (["END"], 1.0, 1),
        (["<s>", "END"], 1.0, 2),
        ([None, None, "END"], 1.0, 3),
        ([None] * 8, 1.0, 8),
        ([None] * 8, 9.0, 3),
        ([None] * 8, 100.0, 1),
    ],
)
def test_the_end_token_check_stops_when_it_knows_or_time_is_up(
    model: HFModel, tokens: list[str | None], seconds: float, tried: int
) -> None:
    (configured,) = model.tokenizer.convert_ids_to_tokens(sorted(model.ends))
    ends: Any = Ends(model, *(configured if t == "END" else t for t in tokens), seconds=seconds)
    check_end_token(ends, PROMPTS[:8], 3, clock=lambda: ends.now)
    assert ends.keys == [f"3|end|{k}" for k in range(tried)]


@pytest.mark.parametrize(
    ("tokens", "seconds", "says"),
    [
        (["<s>", "<s>", "END"], 1.0, "2 of 2 free"),
        ([None, "<s>", None, "<s>"], 1.0, "2 of 4 free"),
        (["<s>"], 30.0, "1 of 1 free"),
    ],
)
def test_another_end_token_is_refused_as_soon_as_it_is_known(
    model: HFModel, tokens: list[str | None], seconds: float, says: str
) -> None:
    ends: Any = Ends(model, *tokens, seconds=seconds)
    with pytest.raises(Blocked, match=says):
        check_end_token(ends, PROMPTS[:8], 0, clock=lambda: ends.now)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"path": DEMO, "eos_token": "<nope>"}, "not in the vocabulary"),
        ({"path": DEMO, "dtype": "float31"}, "model.dtype=float31"),
        ({"path": DEMO, "adapter": "nowhere"}, "no adapter_config.json"),
        ({"path": "./nowhere"}, "no such directory"),
        ({"path": str(Path(DEMO).parent)}, "cannot load a tokenizer"),
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
