"""Preflight looks at what is trained on: every row of every stage as tokens. Each check has what it must not pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_templates import TEMPLATES
from conftest import ROOT
from transformers import AutoTokenizer

from diagnose.config import ModelConfig
from diagnose.errors import BadInput
from diagnose.models.weights import prompt_format_of
from diagnose.records import Diagnosis
from train import memory
from train import preflight as preflight_module
from train.config import MethodConfig, PreflightConfig, TrainConfig
from train.data import Rows, for_trl
from train.plan import Plan
from train.preflight import Check, preflight, shown_rows
from train.render import texts, tokens
from train.rows import Row
from train.speed import seconds_per_batch, typical

MODEL = ROOT / "tests" / "data" / "demo" / "model"


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content} | more


def sft_rows(count: int = 40, answer: str = "Oakford", system: str | None = None) -> list[Row]:
    before = [turn("system", system)] if system else []
    return [
        {
            "where": f"rows.jsonl:{k + 1}",
            "slice": "s",
            "prompt": [*before, turn("user", f"What is the home of {k}?")],
            "completion": turn("assistant", answer),
        }
        for k in range(count)
    ]


def pair_rows(count: int = 40, chosen: str = "Oakford", rejected: str = "Kelso") -> list[Row]:
    rows = []
    for row in sft_rows(count):
        pair: Any = {name: value for name, value in row.items() if name != "completion"}
        rows.append(pair | {"chosen": turn("assistant", chosen), "rejected": turn("assistant", rejected)})
    return rows


def model_with(tmp_path: Path, change: Callable[[str], str | None]) -> ModelConfig:
    """The demo's model with another chat template."""
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder, dirs_exist_ok=True)
    template = folder / "chat_template.jinja"
    changed = change(template.read_text())
    template.unlink() if changed is None else template.write_text(changed)
    return ModelConfig(path=str(folder), dtype="float32")


def planned(rows: list[Row], method: str = "sft", model: ModelConfig | None = None, **settings: Any) -> Plan:
    """A plan for a diagnosis of the same model in the same prompt format."""
    kind = "sft" if method == "sft" else "preferences"
    model = model or ModelConfig(path=str(MODEL), dtype="float32")
    given = settings.pop("stages", {})
    config = TrainConfig(model=model, method=MethodConfig(name=method, **given), **settings)
    diagnosis = Diagnosis(
        decision_id="d",
        run={},
        prompt_format_sha="",
        evalset={"sha256": "e"},
        slices=[],
        controls={},
        recommendations=[],
    )
    plan = Plan(config, diagnosis, {kind: Rows(kind, "rows.jsonl", "", rows)}, None, "e")
    diagnosis.run["prompt_format"] = prompt_format_of(model, plan.tokenizer, plan.ends)
    return plan


def checked(plan: Plan) -> dict[str, Check]:
    return {check.name: check for check in preflight(plan)}


def test_rows_without_a_fault_pass_but_for_the_slice_that_nobody_measured() -> None:
    found = checked(planned(sft_rows()))
    assert {name for name, check in found.items() if check.level != "passed"} == {"slices"}
    assert "the eval set does not have s" in found["slices"].message


@pytest.mark.parametrize("family", list(TEMPLATES))
def test_the_tokens_looked_at_are_those_that_trl_trains_on(family: str, tmp_path: Path) -> None:
    """Otherwise every check below would be about something else."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.chat_template, tokenizer.pad_token = TEMPLATES[family], tokenizer.eos_token
    same: Any = {
        "output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True,
        "model_init_kwargs": {"dtype": "float32"},
    }  # fmt: skip
    for rows, system in ((sft_rows(4), "Be brief."), (pair_rows(4), None)):
        dataset = Dataset.from_list(for_trl(rows, tokenizer, system), on_mixed_types="use_json")
        if "completion" in rows[0]:
            sft = SFTTrainer(str(MODEL), SFTConfig(**same), train_dataset=dataset, processing_class=tokenizer)
            theirs = [(row["labels"].count(-100), len(row["input_ids"])) for row in sft.train_dataset]
        else:
            dpo = DPOTrainer(str(MODEL), args=DPOConfig(**same), train_dataset=dataset, processing_class=tokenizer)
            theirs = [
                (len(row["prompt_ids"]), len(row["prompt_ids"] + row[f"{column}_ids"]))
                for row in dpo.train_dataset
                for column in ("chosen", "rejected")
            ]
        ours = list(tokens(rows, tokenizer, system, {tokenizer.eos_token_id}, 10_000))
        assert [(t.shared, t.length) for t in ours] == theirs
        assert all(t.shared == t.asked and t.end >= t.shared for t in ours)


# ---------------------------------------------------------------- prompt format


def test_a_generation_prompt_that_opens_a_thought_is_no_prefix_of_what_is_trained(tmp_path: Path) -> None:
    opened = "<|assistant|><think>\n{% endif %}"
    model = model_with(tmp_path, lambda text: text.replace("<|assistant|>{% endif %}", opened))
    found = checked(planned(sft_rows(), model=model))["prompt format"]
    assert found.level == "blocked" and "40 of 40" in found.message and "<think>\\n" in found.message


@pytest.mark.parametrize("at", [0, 30])
def test_a_template_that_refuses_a_turn_is_named_with_the_row(tmp_path: Path, at: int) -> None:
    """As Gemma's refuses a system turn."""
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    model = model_with(tmp_path, lambda text: refusal + text)
    rows = sft_rows()
    rows[at]["prompt"] = [turn("system", "Be kind."), *rows[at]["prompt"]]
    with pytest.raises(BadInput, match=rf"rows.jsonl:{at + 1}: the chat template does not accept system, user.*System"):
        preflight(planned(rows, model=model))


def test_a_turn_that_the_template_leaves_out_blocks(tmp_path: Path) -> None:
    """Its rows would train on a conversation that nobody had."""
    skipped = "{% for m in messages if m.role != 'system' %}"
    model = model_with(tmp_path, lambda _: TEMPLATES["Llama 3"].replace("{% for m in messages %}", skipped))
    found = checked(planned(sft_rows(system="Be kind."), model=model))["prompt format"]
    assert found.level == "blocked" and "leaves out a turn of system in 40 of 40" in found.message


def test_calls_that_the_template_does_not_print_block(tmp_path: Path) -> None:
    rows = sft_rows()
    call = {"type": "function", "function": {"name": "weather", "arguments": {"place": 3}}}
    rows[7]["completion"] = turn("assistant", "", tool_calls=[call])
    found = checked(planned(rows))["prompt format"]
    assert (
        found.level == "blocked" and "a turn of assistant in 1 of 40 sequences, first at rows.jsonl:8" in found.message
    )
    prints = "{{ m.content }}{% for c in m.tool_calls or () %}{{ c.function | tojson }}{% endfor %}"
    model = model_with(tmp_path, lambda text: text.replace("{{ m.content }}", prints))
    plan = planned(rows, model=model)
    assert checked(plan)["prompt format"].level == "passed"
    (text,) = texts([rows[7]], plan.tokenizer, None)
    assert '{"name": "weather", "arguments": {"place": 3}}' in text.whole
    plain = planned(rows, model=model_with(tmp_path, lambda _: None))
    with pytest.raises(BadInput, match="rows.jsonl:8: calls tools, but the tokenizer has no chat template"):
        preflight(plain)


def test_a_template_that_escapes_or_trims_a_turn_has_it(tmp_path: Path) -> None:
    """As Llama 3's prints the results of tools as JSON."""
    escaped = TEMPLATES["Llama 3"].replace(
        "{{ m.content }}", "{{ m.content | tojson if m.role == 'tool' else m.content }}"
    )
    model = model_with(tmp_path, lambda _: escaped)
    rows = sft_rows()
    rows[0]["prompt"] = [
        turn("user", "How warm?"),
        turn("assistant", "I ask."),
        turn("tool", '{"temp": 21,\n "by": "é"}'),
    ]
    assert checked(planned(rows, model=model))["prompt format"].level == "passed"


def test_a_tokenizer_that_ends_its_prompts_blocks(tmp_path: Path) -> None:
    """Asked so, the model would see an ended text; trained, it does not."""
    from tokenizers.processors import TemplateProcessing

    model = model_with(tmp_path, lambda _: None)
    plan = planned(sft_rows(), model=model)
    eos = plan.tokenizer.eos_token
    plan.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {eos}", special_tokens=[(eos, plan.tokenizer.eos_token_id)]
    )
    plan.diagnosis.run["prompt_format"] = prompt_format_of(model, plan.tokenizer, plan.ends)
    found = checked(plan)["prompt format"]
    assert found.level == "blocked" and repr(eos) in found.message


def test_a_format_other_than_the_diagnosed_one_blocks_and_names_the_key() -> None:
    plan = planned(sft_rows())
    plan.diagnosis.run["prompt_format"] |= {"system_prompt": "Be kind.", "chat_template": "other"}
    found = checked(plan)["prompt format"]
    assert found.level == "blocked" and "differs from the diagnosis in: chat_template, system_prompt" in found.message


def test_an_eval_set_that_changed_since_blocks() -> None:
    plan = planned(sft_rows())
    assert checked(replace(plan, evalset_sha256="other"))["eval set"].level == "blocked"


# ---------------------------------------------------------------- end and length


def test_answers_that_never_show_the_end_token_block(tmp_path: Path) -> None:
    model = model_with(tmp_path, lambda text: text.replace("{{ m.content }}<|end|>", "{{ m.content }}"))
    found = checked(planned(sft_rows(), model=model))["end token"]
    assert found.level == "blocked" and "40 of 40 answers end with 'ant|>Oakford', but" in found.message


def test_length_counts_the_system_prompt_and_the_template_in_every_stage() -> None:
    model = ModelConfig(path=str(MODEL), dtype="float32", system_prompt="Rule: be brief. " * 12)
    args = {"args": {"max_length": 80}}
    found = checked(planned(sft_rows(), model=model, stages=args))["length"]
    assert found.level == "blocked" and "40 of 40 have no room for an answer, first at rows.jsonl:1" in found.message
    rows = sft_rows()
    rows[3]["completion"] = turn("assistant", "Oakford " * 100)
    found = checked(planned(rows, stages=args))["length"]
    assert found.level == "warned" and "1 of 40 lose the end of their answer, first at rows.jsonl:4" in found.message
    unlimited = checked(planned(rows, stages={"args": {"max_length": None}}))["length"]
    assert unlimited.level == "passed" and "tokens of 256" in unlimited.message
    first = {"first": {"max_length": 8}, "args": {"max_length": 200}}
    pairs = planned(pair_rows(60), "sft_dpo", stages=first)
    pairs.data["sft"] = Rows("sft", "", "", sft_rows())
    found = checked(pairs)["length"]
    assert found.level == "blocked" and found.message.startswith("sft: the longest has ") and "dpo: " in found.message


def test_pairs_too_long_for_a_reward_model_are_counted_because_trl_leaves_them_out() -> None:
    rows = pair_rows(60)
    rows[5]["chosen"] = turn("assistant", "Oakford " * 100)
    found = checked(planned(rows, "rlhf", stages={"first": {"max_length": 80}}))["length"]
    assert found.level == "warned" and "1 of 120 have no room for an answer, first at rows.jsonl:6" in found.message


def test_three_rows_are_shown_with_what_the_loss_is_on() -> None:
    shown = list(shown_rows(planned(sft_rows())))
    assert [where for where, _, _ in shown] == ["rows.jsonl:1", "rows.jsonl:14", "rows.jsonl:27"]
    assert all(asked.endswith("<|assistant|>") and answer == "Oakford<|end|>" for _, asked, answer in shown)


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize(
    ("rows", "method", "level", "says"),
    [
        (sft_rows(8), "sft", "warned", "fewer than 32 different sft rows"),
        (sft_rows(1) * 500, "sft", "warned", "499 of the sft rows repeat others; fewer than 32"),
        (sft_rows(40) * 2, "sft", "warned", "40 of the sft rows repeat others"),
        (sft_rows(40), "sft", "passed", "40 sft rows"),
        (
            pair_rows(49),
            "rlhf",
            "blocked",
            "49 different pairs; a reward model of fewer than 2,000 is doubtful; of few",
        ),
        (pair_rows(60), "rlhf", "warned", "60 different pairs"),
        (pair_rows(60), "dpo", "passed", "60 preferences rows"),
    ],
)
def test_few_and_repeated_rows(rows: list[Row], method: str, level: str, says: str) -> None:
    found = checked(planned(rows, method))["rows"]
    assert found.level == level and says in found.message


@pytest.mark.parametrize(
    ("rows", "level", "says"),
    [
        (pair_rows(40) + pair_rows(40, "Kelso", "Oakford"), "blocked", "80 are contradicted by another"),
        (pair_rows(40) + pair_rows(4, "Kelso", "Oakford"), "warned", "8 are contradicted by another"),
        (
            pair_rows(40, "a long answer"),
            "warned",
            "the chosen answer is longer in 1.00 of them, which tells the two apart",
        ),
        (pair_rows(40, "Oakes", "Kelso"), "passed", "40 pairs"),
    ],
)
def test_pairs_that_contradict_or_give_themselves_away(rows: list[Row], level: str, says: str) -> None:
    found = checked(planned(rows, "dpo"))["pairs"]
    assert found.level == level and says in found.message


def test_what_is_done_about_personal_data() -> None:
    rows = sft_rows(answer="Write to a@example.org")
    levels = {mode: checked(planned(rows, pii=mode))["personal data"].level for mode in ("count", "refuse", "off")}
    assert levels == {"count": "warned", "refuse": "blocked", "off": "passed"}


def test_columns_that_nothing_reads_are_named() -> None:
    plan = planned(sft_rows())
    plan.data["sft"].ignored.update({"weight": 40})
    assert checked(plan)["columns"] == Check("columns", "warned", "named as in TRL; nothing reads weight")


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("init", "method", "level"),
    [
        ("pissa", "dpo", "blocked"),
        ("PiSSA_niter_4", "rlhf", "blocked"),
        ("olora", "sft_dpo", "blocked"),
        ("pissa", "sft", "passed"),
        ("eva", "sft", "blocked"),
        ("corda", "sft", "blocked"),
        ("orthogonal", "dpo", "passed"),
        (True, "dpo", "passed"),
    ],
)
def test_inits_that_change_the_reference_or_do_nothing(init: Any, method: str, level: str) -> None:
    plan = planned(sft_rows() if method == "sft" else pair_rows(60), method, lora={"init_lora_weights": init})
    if method == "sft_dpo":
        plan.data["sft"] = Rows("sft", "", "", sft_rows())
    # Only this check: the others would ask PEFT to read the name.
    from train.preflight import CHECKS

    assert CHECKS["reference"](plan)[0] == level


def test_a_step_too_large_for_the_device_names_the_batch_size_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(sft_rows(), stages={"args": {"per_device_train_batch_size": 64}})
    assert checked(plan)["memory"].level == "passed"
    whole = checked(plan)["memory"].message
    for share, says in ((0.5, "method.args.per_device_train_batch_size="), (0.001, "too little even for one row")):
        step = needed(plan)
        monkeypatch.setattr("train.preflight.device_bytes", lambda size=share * step: ("a small GPU", int(size)))
        found = checked(plan)["memory"]
        assert found.level == "warned" and says in found.message, whole


def needed(plan: Plan) -> int:
    from peft import LoraConfig

    from diagnose.models.adapter import adapted
    from train.preflight import _step

    lora = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    return _step(plan, "sft", memory.network_of(adapted(str(MODEL), lora))).bytes


def test_a_forced_check_warns_and_an_unknown_one_is_refused() -> None:
    rows = pair_rows(40) + pair_rows(40, "Kelso", "Oakford")
    forced = checked(planned(rows, "dpo", preflight=PreflightConfig(force=["pairs"])))["pairs"]
    assert forced.level == "warned" and forced.message.endswith("(forced)")
    with pytest.raises(BadInput, match=r"preflight.force: unknown check 'pears'; allowed: columns, rows, leakage"):
        preflight(planned(rows, "dpo", preflight=PreflightConfig(force=["pears"])))


@pytest.mark.parametrize(
    ("method", "rows", "settings", "says"),
    [
        ("sft", sft_rows(40), {"num_train_epochs": 2}, "sft: about 20 s for 10 steps"),
        ("sft", sft_rows(40), {"max_steps": 600}, "sft: about 20 min for 600 steps"),
        ("sft", sft_rows(40), {"gradient_accumulation_steps": 2, "num_train_epochs": 1}, "about 12 s for 3 steps"),
        ("dpo", pair_rows(40), {"max_steps": 36000}, "dpo: about 20.0 h for 36000 steps"),
    ],
)
def test_how_long_it_takes_at_a_measured_speed(
    method: str, rows: list[Row], settings: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With batches of eight that take two seconds; it is measured where one stops before the first step."""
    seen = []

    def measured(model: ModelConfig, lora: Any, lengths: Any, reference: bool) -> float:
        seen.append((len(lengths), reference))
        return 2.0

    monkeypatch.setattr(preflight_module, "seconds_per_batch", measured)
    eight = ModelConfig(path=str(MODEL), dtype="float32", train_batch_size=8)
    plan = planned(rows, method, eight, stages={"args": settings}, preflight=PreflightConfig(mode="only"))
    assert says in checked(plan)["time"].message
    assert seen == [(8, False) if method == "sft" else (16, True)]
    assert "time" not in checked(planned(rows, method))


def test_a_batch_is_measured_through_the_base_and_its_reference() -> None:
    from peft import LoraConfig

    model = ModelConfig(path=str(MODEL), dtype="float32")
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    assert seconds_per_batch(model, lora, typical([5, 9, 30, 12], 2), reference=True) > 0
    assert typical(list(range(100)), 4) == [12, 37, 62, 87] and typical([7], 3) == [7, 7, 7]
