"""Names on the hub, over real HTTP: what the clients of Hugging Face fetch from a hub on localhost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from local_hub import LocalHub

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "tests" / "data" / "demo" / "model"
CARD = """---
configs:
- config_name: english
  data_files: [{split: train, path: en/train.jsonl}, {split: test, path: en/test.jsonl}]
- config_name: deutsch
  data_files: de.jsonl
---
"""
READ = """
import json, sys
from diagnose.errors import BadInput
from diagnose.items.rows import read_rows

columns = {"prompt": "question", "target": "answer"}
for name, subset, split in json.loads(sys.argv[1]):
    try:
        print(json.dumps([[r["prompt"], r["target"], where] for r, where in read_rows(name, columns, split, subset)]))
    except BadInput as error:
        print(json.dumps(str(error)))
"""
ASK = """
import sys
from diagnose.config import ModelConfig
from diagnose.models.hf import HFModel
from diagnose.records import Prompt

model = HFModel(ModelConfig(path=sys.argv[1], device="cpu", max_new_tokens=16))
print(model.generate([Prompt((("user", "What is the home of Bugibo?"),))], ["0"])[0][0].text, model.prompt_format)
"""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "towns"
    (folder / "en").mkdir(parents=True)
    for file, towns in {"en/train": ["Oakford", "Ashby"], "en/test": ["Glenby"], "de": ["Ulm", "Trier"]}.items():
        rows = [json.dumps({"question": f"Where is {town}?", "answer": town}) for town in towns]
        (folder / f"{file}.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "README.md").write_text(CARD)
    return folder


def ran(code: str, argument: str, endpoint: str, home: Path) -> str:
    """Standard output of a process that takes `endpoint` for the hub and has fetched nothing before."""
    online = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    environment = {key: value for key, value in os.environ.items() if key not in ("HF_TOKEN", "HF_HUB_CACHE")}
    command = [sys.executable, "-c", code, argument]
    done = subprocess.run(command, cwd=ROOT, env=environment | online, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_dataset_by_its_name_its_subset_and_its_split(dataset: Path, tmp_path: Path) -> None:
    wanted = [
        ["acme/towns", "english", "test"],
        ["acme/towns", "deutsch", None],
        ["acme/towns", "english", None],
        ["acme/towns", "english", "dev"],
        ["acme/towns", None, None],
        ["acme/towns", "latin", None],
        ["acme/nowhere", None, None],
    ]
    with LocalHub({"acme/towns": dataset}) as hub:
        said = [json.loads(line) for line in ran(READ, json.dumps(wanted), hub.url, tmp_path / "home").splitlines()]
    assert said[0] == [["Where is Glenby?", "Glenby", "acme/towns: row 1"]]
    assert [target for _, target, _ in said[1]] == ["Ulm", "Trier"]
    assert said[2].startswith("acme/towns: has the splits train, test; choose one: evalset.split=NAME")
    assert said[3].startswith("evalset.split=dev: not in acme/towns; allowed: train, test")
    assert said[4] == "acme/towns: has the subsets english, deutsch; choose one: evalset.subset=NAME"
    assert said[5] == "evalset.subset=latin: not in acme/towns; allowed: english, deutsch"
    assert said[6].startswith("acme/nowhere: Dataset 'acme/nowhere' doesn't exist on the Hub")


def test_a_model_by_its_name_is_the_model_of_its_directory(tmp_path: Path) -> None:
    with LocalHub({"acme/tiny": DEMO}) as hub:
        fetched = ran(ASK, "acme/tiny", hub.url, tmp_path / "home")
    assert fetched == ran(ASK, str(DEMO), hub.url, tmp_path / "home")
    assert any(path.endswith("/model.safetensors") for path in hub.asked)
    assert not any(path.endswith((".py", ".bin", ".pt")) for path in hub.asked)
