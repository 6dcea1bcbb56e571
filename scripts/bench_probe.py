"""Speed of the probes compared with lm-eval's `hf` model and with bare forward passes.

Our code and lm-eval alternate in one process, with the same prompts, batch size, dtype and model; what counts is the
ratio. The workloads are typical for users of either: greedy answers, few-shot answers, few-shot ranking of options,
samples. The model is the demo model or a Qwen3 with random weights; nothing is downloaded.

    pip install 'lm-eval==0.4.13'
    python -m scripts.bench_probe                      # writes scripts/results/bench_probe.json
    python -m scripts.bench_probe --device cuda --like 0.6b --dtype bfloat16 --items 512 --batch 128
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from diagnose.config import ModelConfig
from diagnose.models.hf import HFModel
from diagnose.models.prefill import CACHE, cache_of
from diagnose.models.weights import best_device
from diagnose.records import Prompt

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
DEMO = ROOT / "tests" / "data" / "demo"
SHAPES = {
    "0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "1.7b": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "8b": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
}
"""From config.json of Qwen/Qwen3-*-Base."""
WANTED = {"plain": 1, "few_shot": 2, "few_shot_300": 3, "ranked": 3, "samples": 2}
"""Target speed-up over lm-eval."""


def main() -> None:
    args = parsed()
    with tempfile.TemporaryDirectory() as folder:
        if args.like:
            args.model = random_model(args.like, args.dtype, args.device, folder)
        found = compared(args)
    name = "_".join(
        ["bench_probe", *([args.device] if args.device != "cpu" else []), *([args.like] if args.like else [])]
    )
    versions = {package: version(package) for package in ("torch", "transformers", "lm-eval")}
    chip = torch.cuda.get_device_name() if args.device == "cuda" else platform.machine()
    where = {"chip": chip, "cores": os.cpu_count(), "device": args.device, "versions": versions}
    if args.like:
        args.model = f"random weights of the shape of Qwen3-{args.like}"
    result = {"command": vars(args), "machine": where, "found": found}
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def compared(args: argparse.Namespace) -> dict[str, Any]:
    settings = ModelConfig(
        path=args.model,
        dtype=args.dtype,
        device=args.device,
        batch_size=args.batch,
        max_new_tokens=args.tokens,
        stop=[],
    )
    ours = HFModel(settings)
    rows = [json.loads(line) for line in (DEMO / "evalset.jsonl").read_text().splitlines()]
    tasks = workloads(ours, rows, args)
    found: dict[str, Any] = {}
    for name, (mine, other) in tasks.items():
        found[name] = ratio(mine, other, args.repeats)
        low, high = found[name]["low"], found[name]["high"]
        print(
            f"{name:<12} ours {found[name]['ours_s']:6.2f} s   lm-eval {found[name]['theirs_s']:6.2f} s   "
            f"{found[name]['ratio']:5.2f} x [{low:.2f}, {high:.2f}]   target {WANTED[name]} x",
            flush=True,
        )
    parts = [found[name] for name in ("few_shot", "ranked", "samples")]
    found["together"] = {"ratio": sum(part["theirs_s"] for part in parts) / sum(part["ours_s"] for part in parts)}
    print(f"{'together':<12} few-shot, ranking and samples together: {found['together']['ratio']:.2f} x   target 2 x")
    found["limit"] = limit(ours, rows, args)
    print(f"{'limit':<12} plain prompts reach {found['limit']['share']:.2f} of the speed of bare forward passes")
    if not args.like:
        found["adaptive"] = adaptive(args.device)
        share, same = found["adaptive"]["share"], found["adaptive"]["same_verdicts"]
        print(f"{'adaptive':<12} needs {share:.2f} of the full budget's answers on the demo; same verdicts: {same}")
    return found


def random_model(like: str, dtype: str, device: str, folder: str) -> str:
    """Save a Qwen3 with random weights and the demo's tokenizer; returns the directory."""
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(DEMO / "model")
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = Qwen3Config(**SHAPES[like], num_key_value_heads=8, head_dim=128, vocab_size=151936, **ends)
    config.tie_word_embeddings = like != "8b"
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    with torch.device(device):
        network = Qwen3ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tests/data/demo/model")
    parser.add_argument("--like", choices=SHAPES, help="a Qwen3 of this size with random weights instead of --model")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default=best_device())
    parser.add_argument("--items", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=16, help="new tokens per answer; generation never stops earlier")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def harness(args: argparse.Namespace) -> Any:
    """lm-eval's own model class."""
    from lm_eval.models.huggingface import HFLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    return HFLM(
        pretrained=args.model,
        backend="causal",
        dtype=args.dtype,
        device=args.device,
        batch_size=args.batch,
        max_length=512,
    )


def workloads(ours: HFModel, rows: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """name → (our call, lm-eval's call), both on the same texts."""
    questions = [rows[k % len(rows)]["prompt"] for k in range(args.items)]
    # The rows repeat; numbering makes all prompts distinct.
    questions = [f"{k}. {text}" for k, text in enumerate(questions)]
    # BOS as text, because lm-eval adds none here: with other input tokens, answers and their lengths would differ.
    begin = ours.tokenizer.bos_token
    answers = [str(row["target"] if isinstance(row["target"], str) else row["target"][0]) for row in rows]
    few, many = exemplars(ours, rows, answers, 4), exemplars(ours, rows, answers, 0, tokens=300)
    # Options of several tokens, as usual: with single tokens both would need only one pass over the prompt.
    options = [f" {text}, I believe" for text in dict.fromkeys(answers)][:4]

    def asked(head: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
        texts = [begin + head + text + "\n" for text in questions]
        prompts = [Prompt((("user", text),), raw=True) for text in texts]
        return (lambda: mine(ours, prompts, args.batch)), (lambda: their_greedy(texts, args))

    def ranked() -> tuple[Callable[[], Any], Callable[[], Any]]:
        texts = [begin + few + text + "\n" for text in questions]
        prompts = [Prompt((("user", text),), raw=True) for text in texts]
        return (lambda: my_ranks(ours, prompts, options, args.batch)), (lambda: their_ranks(texts, options))

    def sampled() -> tuple[Callable[[], Any], Callable[[], Any]]:
        texts = [begin + text + "\n" for text in questions[: args.items // 4]]
        prompts = [Prompt((("user", text),), raw=True) for text in texts]
        return (
            lambda: mine(ours, prompts, args.batch // 8, n=8, temperature=1.0),
            lambda: their_greedy([text for text in texts for _ in range(8)], args, temperature=1.0),
        )

    their_model = harness(args)

    def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        from lm_eval.api.instance import Instance

        return [Instance(request_type=kind, doc={}, arguments=a, idx=k) for k, a in enumerate(arguments)]

    def their_greedy(texts: list[str], args: argparse.Namespace, temperature: float = 0.0) -> Any:
        how = {"max_gen_toks": args.tokens, "until": ["\x00"], "do_sample": temperature > 0, "temperature": temperature}
        return their_model.generate_until(
            instances("generate_until", [(text, dict(how)) for text in texts]), disable_tqdm=True
        )

    def their_ranks(texts: list[str], options: list[str]) -> Any:
        pairs = [(text, option) for text in texts for option in options]
        return their_model.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)

    return {
        "plain": asked(""),
        "few_shot": asked(few),
        "few_shot_300": asked(many),
        "ranked": ranked(),
        "samples": sampled(),
    }


def exemplars(ours: HFModel, rows: list[dict[str, Any]], answers: list[str], count: int, tokens: int = 0) -> str:
    """`count` few-shot examples, or as many as needed for `tokens` tokens."""
    text = ""
    for k, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        if k >= count > 0 or (tokens and len(ours.tokenizer(text)["input_ids"]) >= tokens):
            break
        text += f"{row['prompt']}\n{answer}\n\n"
    return text


def mine(ours: HFModel, prompts: list[Prompt], batch: int, n: int = 1, temperature: float = 0.0) -> None:
    ordered = sorted(prompts, key=lambda p: -len(p.turns[0][1]))
    for start in range(0, len(ordered), batch):
        part = ordered[start : start + batch]
        ours.generate(part, [str(start + k) for k in range(len(part))], n, 0, temperature)


def my_ranks(ours: HFModel, prompts: list[Prompt], options: list[str], batch: int) -> None:
    ordered = sorted(prompts, key=lambda p: -len(p.turns[0][1]))
    for start in range(0, len(ordered), batch):
        part = ordered[start : start + batch]
        ours.logprob([p for p in part for _ in options], [o for _ in part for o in options])


def ratio(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Alternate the two calls after one warm-up each; median and range of the ratio of each pair."""
    pairs = []
    for turn in range(repeats + 1):
        pair = (timed(ours), timed(theirs))
        pairs += [pair] if turn else []
    ratios = [b / a for a, b in pairs]
    return {
        "ours_s": statistics.median(a for a, _ in pairs),
        "theirs_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
    }


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def limit(ours: HFModel, rows: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, float]:
    """Speed of greedy answers as a share of that of bare forward passes with the same shapes."""
    prompts = [Prompt((("user", f"{k}. {rows[k % len(rows)]['prompt']}\n"),), raw=True) for k in range(args.items)]
    lengths = sorted((len(ours.encode(p)) for p in prompts), reverse=True)

    @torch.inference_mode()
    def bare() -> None:
        for start in range(0, len(lengths), args.batch):
            part = lengths[start : start + args.batch]
            ids = torch.zeros(len(part), part[0], dtype=torch.long, device=args.device)
            out = ours.network(input_ids=ids, use_cache=True, logits_to_keep=1)
            for _ in range(args.tokens - 1):
                out = ours.network(input_ids=ids[:, :1], **{CACHE: cache_of(out)}, use_cache=True)

    pair = ratio(lambda: mine(ours, prompts, args.batch), bare, args.repeats)
    return {"share": pair["ratio"], "ours_s": pair["ours_s"], "bare_s": pair["theirs_s"]}


def adaptive(device: str) -> dict[str, Any]:
    """Answers needed by the adaptive budget on the demo, as a share of the full one; whether the verdicts agree."""
    answers, said = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for budget in ("full", "adaptive"):
            out = Path(folder) / budget
            overrides = [f"out={out}", f"probes.budget={budget}", f"model.device={device}", "wandb.mode=disabled"]
            subprocess.run([sys.executable, str(ROOT / "diagnose.py"), *overrides], check=True, capture_output=True)
            answers[budget] = len((out / "answers.jsonl").read_text().splitlines())
            diagnosis = json.loads((out / "diagnosis.json").read_text())
            said[budget] = {v["slice"]: (v["verdict"], v["kind"]) for v in diagnosis["slices"]}
    share = answers["adaptive"] / answers["full"]
    return {"share": share, "answers": answers, "same_verdicts": said["full"] == said["adaptive"]}


if __name__ == "__main__":
    main()
