"""The files of a checkpoint beside its weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf"}
_WEIGHTS |= {".ot", ".parquet", ".arrow", ".feather", ".ipc"}
_LARGEST = 64 << 20
"""Tokenizers are smaller; what is larger is weights of a kind that is not known here."""


def copy_companions(origin: Path | None, destination: Path) -> None:
    """Copy configuration and tokenizer: whatever is neither weights, nor hidden, nor an index."""
    if origin is None:
        return
    for path in _files(origin):
        target = destination / path.relative_to(origin)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__")) or (path.is_symlink() and not path.exists()):
            continue
        if path.is_dir():
            if not (path / "manifest.json").exists():
                yield from _files(path)
        elif (
            path.suffix.lower() not in _WEIGHTS
            and not path.name.endswith(".index.json")
            and path.stat().st_size <= _LARGEST
        ):
            yield path
