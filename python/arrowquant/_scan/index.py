"""The index that Hugging Face's tools write beside a checkpoint's shards.

Source of the format: `model.safetensors.index.json` has a `weight_map` from tensor to file,
https://huggingface.co/docs/safetensors/en/torch_shared_tensors and transformers' sharded saving.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arrowquant._errors import QuantizationWarning
from arrowquant._scan.base import Scan, Setup
from arrowquant._scan.members import check_readable, member_of, some_of
from arrowquant._scan.shards import ManyScan, UnreadableScan
from arrowquant._scan.tensors import TensorScan


def from_index(index: Path, setup: Setup) -> ManyScan:
    """The shards that an index lists, in its order; what can't be read comes as rows that say so.

    Raises:
        OSError: The index can't be read, or none of its shards.
        ValueError: It is no index, or a shard holds a tensor that the index has in another one.

    Warns:
        QuantizationWarning: A shard holds tensors that the index does not list, or the index's
            `total_size` is not that of its tensors.
    """
    shards, total = _read_index(index)
    root = index.parent
    if not any((root / name).is_file() for name in shards):
        raise FileNotFoundError(f"{index}: none of its {len(shards)} files is there.")
    owner = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    members: list[Scan] = []
    unlisted: list[str] = []
    for name, listed in shards.items():
        member = member_of(root / name, TensorScan, setup, listed)
        members.append(member)
        if isinstance(member, UnreadableScan):
            continue
        present = {tensor.name for tensor in member.tensors()}
        elsewhere = [tensor for tensor in present if owner.get(tensor, name) != name]
        if elsewhere:
            tensor = min(elsewhere)
            raise ValueError(
                f"{index}: '{tensor}' is in {name}, but the index has it in {owner[tensor]}. "
                "Correct the index, or scan the files one by one."
            )
        unlisted += sorted(present - owner.keys())
        missing = [tensor for tensor in listed if tensor not in present]
        if missing:
            why = (
                "the index names it, but the file does not hold it. Fetch the file anew, and start "
                "afresh (overwrite=True, --overwrite)."
            )
            members.append(UnreadableScan(root / name, setup, missing, why, is_lacking=True))
    check_readable(members)
    _warn_of_index(index, members, unlisted, total)
    return ManyScan(root, setup, members, index=index)


def _warn_of_index(
    index: Path, members: Sequence[Scan], unlisted: list[str], total: int | None
) -> None:
    if unlisted:
        warnings.warn(
            QuantizationWarning(
                f"{index.name} does not list {some_of(unlisted)}, which its files hold. They are "
                "read, too."
            ),
            stacklevel=5,
        )
    whole = not any(isinstance(member, UnreadableScan) for member in members)
    found = sum(member.data_bytes or 0 for member in members)
    if whole and total is not None and total != found:
        warnings.warn(
            QuantizationWarning(
                f"{index.name} says total_size {total:,}, but its files hold {found:,} bytes of "
                "tensors. Is it the index of these files?"
            ),
            stacklevel=5,
        )


def _read_index(index: Path) -> tuple[dict[str, list[str]], int | None]:
    """The tensors of each file, in the index's order, and the bytes that it says they have."""
    try:
        text = index.read_text("utf-8")
        said = json.loads(text, object_pairs_hook=_unique)
        entries = dict(said["weight_map"].items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index}: is no index of safetensors files: {error!r}.") from error
    shards: dict[str, list[str]] = {}
    for tensor, name in entries.items():
        if not isinstance(name, str) or not _is_file_name(name):
            raise ValueError(f"{index}: '{tensor}' is in {name!r}, which is no file's name.")
        shards.setdefault(name, []).append(tensor)
    if not shards:
        raise ValueError(f"{index}: its weight_map is empty.")
    metadata = said.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(total, bool) or not isinstance(total, int | float):
        return shards, None
    return shards, int(total)


def _is_file_name(name: str) -> bool:
    plain = Path(name).name == name and name not in {"", ".", ".."}
    return plain and "\0" not in name and name.isprintable()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which no name comes twice: JSON would silently let the last one win."""
    known = dict(pairs)
    if len(known) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{Counter(names).most_common(1)[0][0]}' comes twice")
    return known
