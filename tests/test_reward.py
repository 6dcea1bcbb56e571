"""A reward model reads an answer at the same token wherever it is used, and knows whether the answer has ended."""

from __future__ import annotations

from copy import deepcopy
from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from chat_templates import TEMPLATES
from conftest import ROOT
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from diagnose.config import ModelConfig
from diagnose.models.reward import RewardModel, reward_ids
from diagnose.records import Prompt
from train.rlhf import score_with, unused_token

MODEL = ROOT / "tests" / "data" / "demo" / "model"
ANSWERS = ("Hello", "Hello there, and a good day", "No")


@pytest.fixture(params=list(TEMPLATES))
def tokenizer(request: Any) -> Any:
    """Padded with the end token, as most are."""
    found = AutoTokenizer.from_pretrained(MODEL)
    found.chat_template, found.pad_token = TEMPLATES[request.param], found.eos_token
    return found


def prompt_of(tokenizer: Any) -> Any:
    return [{"role": "user", "content": "Greet me."}] if tokenizer.chat_template else "Greet me.\n"


def classifier(tokenizer: Any, pad: int) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(MODEL, num_labels=1, pad_token_id=pad)
    return AutoModelForSequenceClassification.from_config(config).eval()


def test_a_finished_answer_is_the_text_that_trl_trains_on(tokenizer: Any) -> None:
    prompt = prompt_of(tokenizer)
    for answer in ANSWERS:
        if tokenizer.chat_template:
            messages = [*prompt, {"role": "assistant", "content": answer}]
            theirs = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        else:
            theirs = tokenizer(prompt + answer + tokenizer.eos_token)["input_ids"]
        assert reward_ids(tokenizer, prompt, answer) == theirs


def test_an_answer_that_was_cut_off_never_looks_finished(tokenizer: Any) -> None:
    """Neither to the tokens nor, once padded in a batch, to the classifier."""
    prompt = prompt_of(tokenizer)
    every = [reward_ids(tokenizer, prompt, answer) for answer in ANSWERS]
    pad = tokenizer.convert_tokens_to_ids(unused_token(tokenizer, chain(*every)))
    assert pad != tokenizer.eos_token_id and pad not in set(chain(*every))
    job: Any = SimpleNamespace(tokenizer=tokenizer, config=SimpleNamespace(model=ModelConfig()))
    score = score_with(job, classifier(tokenizer, pad))
    for answer in ANSWERS:
        whole, cut = (reward_ids(tokenizer, prompt, answer, ended) for ended in (True, False))
        assert whole[: len(cut)] == cut and tokenizer.eos_token_id in whole[len(cut) :]
        finished, unfinished = score([prompt] * 2, [answer] * 2, [True, False])
        assert finished != unfinished


def test_training_gate_rl_and_diagnosis_read_the_same_score(tokenizer: Any, tmp_path: Any) -> None:
    """TRL pads a batch and lets the classifier find the last token; the others score one text or many."""
    prompt = prompt_of(tokenizer)
    rows = [reward_ids(tokenizer, prompt, answer) for answer in ANSWERS]
    padding = unused_token(tokenizer, chain(*rows))
    pad = tokenizer.convert_tokens_to_ids(padding)
    network = classifier(tokenizer, pad)
    width = max(map(len, rows))
    batch = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    with torch.inference_mode():
        trained = network(input_ids=batch, attention_mask=(batch != pad).long()).logits[:, 0].tolist()
    job: Any = SimpleNamespace(tokenizer=tokenizer, config=SimpleNamespace(model=ModelConfig()))
    scored = score_with(job, network)([prompt] * len(ANSWERS), list(ANSWERS), [True] * len(ANSWERS))
    assert scored == pytest.approx(trained, abs=1e-5)
    if tokenizer.chat_template:
        network.save_pretrained(tmp_path)
        deepcopy(tokenizer).save_pretrained(tmp_path)
        asked = [Prompt((("user", "Greet me."),))] * len(ANSWERS)
        judged = [score.logprob for score in RewardModel(str(tmp_path)).logprob(asked, ANSWERS)]
        assert judged == pytest.approx(trained, abs=1e-5)
