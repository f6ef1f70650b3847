"""The files of a checkpoint beside its weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf"}
_WEIGHTS |= {".data", ".onnx_data", ".ot", ".parquet", ".arrow", ".feather", ".ipc"}
_LARGEST = 64 << 20
"""Tokenizers are smaller; what is larger is weights of a kind that is not known here."""


_NAMES = (
    "*config*.json",
    "*token*.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "modules.json",
    "README*",
    "LICENSE*",
)
"""What belongs to a checkpoint that is one file among others, which may be anything."""


def copy_companions(origin: Path | None, destination: Path) -> None:
    """Copy configuration and tokenizer.

    Of a directory, which is the checkpoint, whatever is neither weights, nor hidden, nor an index;
    beside a single file only what is known by its name, unless a configuration of
    onnxruntime-genai says that the directory is a model.
    """
    if origin is None:
        return
    folder = origin if origin.is_dir() else origin.parent
    is_model = origin.is_dir() or (folder / "genai_config.json").exists()
    files = _files(folder) if is_model else _known(folder)
    for path in files:
        target = destination / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__")):
            continue
        if path.is_dir():
            if not path.is_symlink() and not (path / "manifest.json").exists():
                yield from _files(path)
        elif _is_companion(path):
            yield path


def _known(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        known = any(fnmatchcase(path.name, pattern) for pattern in _NAMES)
        if known and path.is_file() and _is_companion(path):
            yield path


def _is_companion(path: Path) -> bool:
    weights = path.suffix.lower() in _WEIGHTS or path.name.endswith(".index.json")
    return path.is_file() and not weights and path.stat().st_size <= _LARGEST
