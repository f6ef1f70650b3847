"""Models of the Hugging Face Hub, by their names or by their directories in its cache."""

from __future__ import annotations

import json
import re
from pathlib import Path

_NAME = re.compile(r"[\w-]+[\w.-]*/[\w-]+[\w.-]*")
_CACHED = re.compile(r"models--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)")
_LEFT_OUT = ["*.bin", "*.pt", "*.pth", "*.ot", "*.h5", "*.msgpack", "*.onnx*", "original/*"]
"""Other tools' weights, which are not read."""
_WEIGHTS = {".safetensors", ".gguf"}


def looks_like_name(text: str) -> bool:
    """Whether it may be a model's name, `org/name`."""
    return _NAME.fullmatch(text) is not None


def cached(directory: Path) -> Path | None:
    """The files of a model's directory in the cache: its current snapshot's.

    Raises:
        FileNotFoundError: The cache has no snapshot of it.
    """
    match = _CACHED.fullmatch(directory.name)
    if match is None or not (directory / "snapshots").is_dir():
        return None
    found = _in_cache(f"{match['owner']}/{match['name']}", directory.parent)
    if found is not None:
        return found
    snapshots = sorted(path for path in (directory / "snapshots").iterdir() if path.is_dir())
    if len(snapshots) == 1:
        return snapshots[0]
    names = ", ".join(path.name for path in snapshots) or "none"
    raise FileNotFoundError(
        f"{directory}: is a model in the Hub's cache, without a current snapshot. Name one of its "
        f"snapshots: {names}."
    )


def snapshot(name: str) -> Path:
    """The files of a model: out of the cache where all of its weights are there, else fetched.

    Raises:
        FileNotFoundError: `huggingface_hub` is not installed, or there is no such model, or no
            network.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise FileNotFoundError(
            f"{name}: no such file or directory. If it is a model of the Hugging Face Hub: pip "
            f"install 'arrowquantize[hub]', or fetch it first: hf download {name} --local-dir "
            f"{name.rpartition('/')[2]}"
        ) from error
    found = _in_cache(name, None)
    if found is not None and _is_whole(found):
        return found
    try:
        return Path(huggingface_hub.snapshot_download(name, ignore_patterns=_LEFT_OUT))
    except Exception as error:
        raise FileNotFoundError(
            f"{name}: no such file or directory, and no model of the Hugging Face Hub that can be "
            f"had: {_first_line(error)} Fetch it first: hf download {name} --local-dir "
            f"{name.rpartition('/')[2]}"
        ) from error


def _in_cache(name: str, folder: Path | None) -> Path | None:
    """A model's snapshot in the cache, as far as it is there; no network is used."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError:
        return None
    try:
        return Path(snapshot_download(name, cache_dir=folder, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _is_whole(folder: Path) -> bool:
    """Whether a snapshot has weights, and all that its indices list."""
    files = {path.name for path in folder.iterdir() if path.exists()}
    for index in folder.glob("*.index*.json"):
        try:
            listed = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        if not listed <= files:
            return False
    return any(Path(name).suffix in _WEIGHTS for name in files)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    line = text[0] if text else type(error).__name__
    return line if line.endswith(".") else f"{line}."
