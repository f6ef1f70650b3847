"""What a dataset's directory says of itself: `manifest.json`, and receipts for what was done since.

A unit is done once its receipt has its name: the data and failed rows that it speaks of are in
place by then. So whatever a killed job leaves behind is either receipted, or removed by the next
one. When a job ends, receipts move into the manifest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import Any, TypeVar

from arrowquant._checkpoint.records import (
    KIND,
    Manifest,
    Part,
    from_json,
    from_receipt,
)
from arrowquant._files import replacing
from arrowquant._importance import Importance

T = TypeVar("T")
_NAME = "manifest.json"
_RECEIPTS = ".receipts"
_METADATA = "source_metadata.json"
_IMPORTANCE = "importance.parquet"
_OURS = re.compile(r"\.?part-\d{5,}(-\d+)?\.(parquet|json)(\.\w+(\.arrowquant)?\.tmp)?")


def exists(dataset: Path) -> bool:
    """Whether the directory has a manifest of ours."""
    try:
        with (dataset / _NAME).open(encoding="utf-8") as file:
            return KIND in file.read(256)
    except (OSError, UnicodeDecodeError):
        return False


def load(dataset: Path) -> Manifest:
    """Read the manifest, and the receipts that are not in it yet.

    Raises:
        OSError: It can't be read.
        ValueError: It is none, or of a newer format.
    """
    text, receipts = _read(dataset / _NAME), None
    while receipts is None:
        try:
            receipts = [path.read_text("utf-8") for path in _receipts(dataset)]
        except FileNotFoundError:
            receipts = None
        # A job may just have moved receipts into the manifest.
        before, text = text, _read(dataset / _NAME)
        if text != before:
            receipts = None
        elif receipts is None:
            raise ValueError(f"{dataset / _RECEIPTS}: a receipt can't be read.")
    manifest = _parse(dataset / _NAME, lambda: from_json(json.loads(text)))
    _merge(manifest, dataset, receipts)
    return manifest


def merge_receipts(dataset: Path, manifest: Manifest) -> None:
    """Add to the manifest what was done since it was saved, whoever did it."""
    _merge(manifest, dataset, [path.read_text("utf-8") for path in _receipts(dataset)])


def _merge(manifest: Manifest, dataset: Path, receipts: list[str]) -> None:
    parts, known = manifest.done, {unit.index for unit in manifest.units}
    for receipt in receipts:
        part = _parse(dataset / _RECEIPTS, lambda: from_receipt(receipt, manifest.id))  # noqa: B023
        if part is not None and part.unit in known:
            parts[part.unit] = part
    manifest.parts = [parts[unit] for unit in sorted(parts)]


def receipt_of(dataset: Path, manifest_id: str, unit: int, attempt: int) -> Part | None:
    """What an attempt at a unit came to, where it came to its end."""
    path = dataset / _RECEIPTS / f"part-{unit:05}.json"
    if not path.exists():
        return None
    part = _parse(path, lambda: from_receipt(path.read_text("utf-8"), manifest_id))
    return part if part is not None and part.attempt == attempt else None


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path.parent}: is no dataset: it has no {_NAME}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no manifest of a dataset: {error}.") from error


def _parse(path: Path, parse: Callable[[], T]) -> T:
    """What a file holds; whatever it is not, the error names it."""
    try:
        return parse()
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = error if isinstance(error, ValueError) else repr(error)
        raise ValueError(f"{path}: is no manifest of a dataset: {reason}") from error


def save(dataset: Path, manifest: Manifest) -> None:
    """Write the manifest whole, then remove the receipts, which are in it now."""
    for name in ("layers", "failed", _RECEIPTS):
        (dataset / name).mkdir(exist_ok=True)
    # `asdict` copies all that it finds, which takes a second for 100,000 layers.
    value = {field.name: getattr(manifest, field.name) for field in fields(manifest)}
    value = {"kind": value.pop("kind"), "format": value.pop("format"), **value}
    # One line each, so that people can read it: a checkpoint has thousands of these.
    value["units"] = [astuple(unit) for unit in manifest.units]
    value["parts"] = [asdict(part) for part in manifest.parts]
    value["attempts"] = [asdict(attempt) for attempt in manifest.attempts]
    with replacing(dataset / _NAME) as temporary:
        temporary.write_text(_dump(value), "utf-8")
    for path in (dataset / _RECEIPTS).glob("part-*.json"):
        path.unlink()


def _dump(value: dict[str, Any]) -> str:
    entries = []
    encode = json.JSONEncoder().encode
    for key, item in value.items():
        if isinstance(item, list) and item:
            lines = ",\n".join(f"    {encode(entry)}" for entry in item)
            entries.append(f"  {encode(key)}: [\n{lines}\n  ]")
        else:
            entries.append(f"  {encode(key)}: {encode(item)}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def save_importance(dataset: Path, importance: Importance | None) -> None:
    """Write how much columns mattered, for a retry."""
    if importance is not None:
        importance.save(dataset / _IMPORTANCE)
    else:
        (dataset / _IMPORTANCE).unlink(missing_ok=True)


def load_importance(dataset: Path, manifest: Manifest) -> Importance | None:
    """How much columns mattered when the job began.

    Raises:
        OSError, ValueError: The file is missing, or is not what it was.
    """
    digest = manifest.request.get("importance")
    if digest is None:
        return None
    found = Importance.read(dataset / _IMPORTANCE)
    if found is None or found.digest != digest:
        raise ValueError(
            f"{dataset / _IMPORTANCE}: is not what the job began with. Start afresh with "
            "overwrite=True (--overwrite)."
        )
    return found


def save_metadata(dataset: Path, said: dict[str, Any]) -> None:
    """Write what the source says beside its tensors, for the way back."""
    if said:
        with replacing(dataset / _METADATA) as temporary:
            temporary.write_text(json.dumps(said), "utf-8")
    else:
        (dataset / _METADATA).unlink(missing_ok=True)


def load_metadata(dataset: Path) -> dict[str, Any]:
    """What the source said beside its tensors.

    Raises:
        ValueError: The file was damaged.
    """
    path = dataset / _METADATA
    if not path.exists():
        return {}
    try:
        said = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is damaged: {error}") from error
    return said if isinstance(said, dict) else {}


def commit(dataset: Path, manifest_id: str, part: Part) -> None:
    """Write a unit's receipt: from then on it is done."""
    path = dataset / _RECEIPTS / f"part-{part.unit:05}.json"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"id": manifest_id, "part": asdict(part)}), "utf-8")


def _receipts(dataset: Path) -> list[Path]:
    return sorted((dataset / _RECEIPTS).glob("part-*.json"))


def strangers(directory: Path) -> list[str]:
    """What a directory without a manifest holds that no killed job of ours left there."""
    found = []
    for path in sorted(directory.iterdir()):
        ours = path.name in {"layers", "failed"} and path.is_dir()
        if ours:
            inside = [file for file in path.iterdir() if not _OURS.fullmatch(file.name)]
            found += [f"{path.name}/{file.name}" for file in inside]
        elif not path.name.startswith(".") and path.name != _IMPORTANCE:
            found.append(path.name)
    return found


def clean(dataset: Path, manifest: Manifest) -> None:
    """Remove what a killed job, or one that this one replaces, left: nothing else."""
    wanted = {file.path for part in manifest.parts for file in part.files}
    for folder in ("layers", "failed"):
        for path in (dataset / folder).iterdir():
            if _OURS.fullmatch(path.name) and f"{folder}/{path.name}" not in wanted:
                path.unlink()
    current = {f"part-{part.unit:05}.json" for part in manifest.parts}
    for path in (dataset / _RECEIPTS).iterdir():
        if _OURS.fullmatch(path.name) and path.name not in current:
            path.unlink()
    for path in dataset.glob(f".{_NAME}.*.tmp"):
        path.unlink()
