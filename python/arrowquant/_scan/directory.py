"""Which files are a checkpoint: what an index lists, a numbered set, or the files of a directory.

Variants are named as `diffusers` and `transformers` do: `model.fp16.safetensors`,
`model.safetensors.index.fp16.json`.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from arrowquant._errors import QuantizationWarning, SeveralCheckpointsError
from arrowquant._scan.base import Scan, Setup
from arrowquant._scan.index import from_index
from arrowquant._scan.members import check_readable, member_of, some_of
from arrowquant._scan.recognise import converts, unreadable
from arrowquant._scan.shards import ManyScan, UnreadableScan
from arrowquant._scan.tensors import TensorScan

_INDEX = re.compile(
    r"^(?P<base>.+?)(\.(?P<before>[\w-]+))?\.safetensors\.index(\.(?P<after>[\w-]+))?\.json$"
)
_NUMBERED = re.compile(
    r"^(?P<stem>.+?)(?P<dash>[-_])(?P<number>\d+)-of-(?P<count>\d+)(?P<rest>(\.[\w-]+)?)$"
)
_APART = re.compile(r"^(consolidated|adapter_model|mmproj|lora)([._-]|$)")
"""Names of files that are a checkpoint of their own beside others."""
_ONNX = ".onnx"
_ALONE = {".gguf", _ONNX}
"""Kinds of files each of which is a model."""


def is_index(path: Path) -> bool:
    """Whether a file is an index of shards, by its name."""
    return _INDEX.match(path.name) is not None


def several(scans: Sequence[Scan], setup: Setup) -> Scan:
    """Files that were named one by one, in that order.

    Raises:
        ValueError: There are none, or two have the same name.
    """
    alone = [one for one in scans if one.path.suffix.lower() == _ONNX]
    if alone and len(scans) > 1:
        raise ValueError(f"{alone[0].path}: is an ONNX model. Scan it on its own.")
    if alone:
        return alone[0]
    members = [
        member
        for one in scans
        for member in (one.members.values() if isinstance(one, ManyScan) else [one])
    ]
    if not members:
        raise ValueError("the list of files is empty.")
    whole = [member.path for member in members if member.path.is_dir()]
    if whole:
        raise ValueError(f"{whole[0]}: is a dataset. Scan it on its own.")
    keys = [member.key for member in members]
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise ValueError(f"two of the files are called {twice[0]}. Scan them one by one.")
    return ManyScan(members[0].path.parent, setup, members)


@dataclass
class _Checkpoint:
    """Files of a directory that are one checkpoint."""

    label: str
    """What `variant=` calls it."""
    files: list[Path] = field(default_factory=list)
    missing: list[Path] = field(default_factory=list)
    index: Path | None = None

    @property
    def shown(self) -> str:
        """Its files, for people."""
        if self.index is not None:
            return self.index.name
        names = [path.name for path in self.files]
        return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"


def directory(path: Path, setup: Setup, kinds: Mapping[str, type[Scan]]) -> Scan:
    """The checkpoint that a directory holds.

    Raises:
        ValueError: It holds none, or several and `variant` chooses none of them.
        OSError: None of its files can be read.

    Warns:
        QuantizationWarning: There are files that the index does not list.
    """
    found = _by_kind(path, kinds)
    indices = [file for file in sorted(path.iterdir()) if is_index(file)]
    if not found and not indices:
        raise ValueError(_holds_none(path, kinds))
    if len(found) > 1 and not indices:
        names = ", ".join(files[0].name for files in found.values())
        raise ValueError(
            f"{path}: holds files of several kinds, such as {names}. Name one of them."
        )
    files = [file for files in found.values() for file in files]
    candidates = _of_indices(indices)
    if not indices or setup.variant not in {None, *(one.label for one in candidates)}:
        candidates += [one for files in found.values() for one in _of_files(files)]
    chosen = _choose(path, candidates, setup.variant)
    if chosen.index is not None:
        scan = from_index(chosen.index, setup)
        listed = {member.path.name for member in scan.members.values()}
        others = [file.name for file in files if file.name not in listed]
        if others and len(indices) == 1:
            warnings.warn(
                QuantizationWarning(
                    f"{chosen.index.name} does not list {some_of(others)}, which is left out. Name "
                    "a file to read it."
                ),
                stacklevel=4,
            )
        return scan
    kind = kinds[chosen.files[0].suffix.lower()]
    if issubclass(kind, ManyScan):  # It knows its files itself.
        return kind(chosen.files[0], setup)  # type: ignore[call-arg]
    members = [member_of(file, kind, setup) for file in chosen.files]
    why = "the file is not there, but the others count it. Fetch it, and run again."
    members += [UnreadableScan(file, setup, [file.name], why) for file in chosen.missing]
    members.sort(key=lambda member: member.path.name)
    check_readable(members)
    scan = ManyScan(path, setup, members)
    if len(members) > 1 and not _NUMBERED.match(members[0].path.stem):
        _check_apart(path, members)
    return scan


def _by_kind(path: Path, kinds: Mapping[str, type[Scan]]) -> dict[type[Scan], list[Path]]:
    """The directory's files of each kind that is read; a link that leads nowhere counts, too."""
    found: dict[type[Scan], list[Path]] = {}
    for file in sorted(path.iterdir()):
        kind = kinds.get(file.suffix.lower())
        if kind is None or file.name.startswith(".") or file.is_dir():
            continue
        found.setdefault(kind, []).append(file)
    if len(found) > 1:  # Many repositories have a model as ONNX, too.
        found = {k: v for k, v in found.items() if v[0].suffix.lower() != _ONNX}
    return found


def _of_indices(indices: list[Path]) -> list[_Checkpoint]:
    checkpoints = []
    for index in indices:
        match = _INDEX.match(index.name)
        assert match is not None
        label = match["after"] or match["before"] or match["base"]
        checkpoints.append(_Checkpoint(label, index=index))
    return checkpoints


def _of_files(files: list[Path]) -> list[_Checkpoint]:
    """Files sorted into checkpoints: a set of numbered ones, a variant, or all others together."""
    checkpoints: dict[str, _Checkpoint] = {}
    stems = {file.stem for file in files}
    for file in files:
        match = _NUMBERED.match(file.stem)
        if match is not None and file.suffix.lower() != _ONNX:
            label = (match["rest"] or match["stem"]).lstrip(".")
            key = f"{match['stem']}-of-{match['count']}{match['rest']}"
            checkpoint = checkpoints.setdefault(key, _Checkpoint(label))
            if not checkpoint.files:
                checkpoint.missing = _numbers(file, match)
            checkpoint.missing = [path for path in checkpoint.missing if path != file]
            checkpoint.files.append(file)
            continue
        base, _, variant = file.stem.rpartition(".")
        if file.suffix.lower() in _ALONE or _APART.match(file.stem):
            checkpoints[file.name] = _Checkpoint(file.stem, [file])
        elif base in stems:
            checkpoints.setdefault(f".{variant}", _Checkpoint(variant)).files.append(file)
        else:
            checkpoints.setdefault("", _Checkpoint(file.stem)).files.append(file)
    for key, checkpoint in checkpoints.items():
        labels = [one.label for one in checkpoints.values()]
        if labels.count(checkpoint.label) > 1:
            checkpoint.label = key
    return list(checkpoints.values())


def _numbers(file: Path, match: re.Match[str]) -> list[Path]:
    """All files that the numbering counts."""
    most, width = 1 << 16, len(match["number"])
    start, end = f"{match['stem']}{match['dash']}", f"-of-{match['count']}{match['rest']}"
    return [
        file.with_name(f"{start}{number:0{width}}{end}{file.suffix}")
        for number in range(1, min(int(match["count"]), most) + 1)
    ]


def _choose(path: Path, candidates: list[_Checkpoint], variant: str | None) -> _Checkpoint:
    if variant is not None:
        chosen = [one for one in candidates if one.label == variant]
        if len(chosen) != 1:
            known = ", ".join(repr(one.label) for one in candidates)
            raise ValueError(f"{path}: has no variant {variant!r}. Choose one of {known}.")
        return chosen[0]
    if len(candidates) > 1:
        what = "; ".join(f"{one.label!r} ({one.shown})" for one in candidates)
        first = candidates[0].label
        raise SeveralCheckpointsError(
            f"{path}: holds {len(candidates)} checkpoints: {what}. Choose one with "
            f"variant={first!r} (--variant {first}), or name its file.",
            _listed(candidates),
        )
    return candidates[0]


def _listed(candidates: list[_Checkpoint]) -> pa.Table:
    """The checkpoints for people to choose from."""
    rows = [
        {
            "variant": one.label,
            "files": one.shown,
            "bytes": sum(file.stat().st_size for file in one.files if file.exists()) or None,
        }
        for one in candidates
    ]
    return pa.Table.from_pylist(
        rows, pa.schema({"variant": pa.string(), "files": pa.string(), "bytes": pa.int64()})
    )


def _check_apart(path: Path, members: Sequence[Scan]) -> None:
    """Refuse files that hold the same tensors: these are two checkpoints.

    Raises:
        ValueError: Two files hold a tensor of one name.
    """
    owner: dict[str, Path] = {}
    for member in members:
        for name in {tensor.name for tensor in member.tensors()}:
            other = owner.setdefault(name, member.path)
            if other != member.path:
                raise ValueError(
                    f"{path}: {other.name} and {member.path.name} both hold '{name}', so they are "
                    "two checkpoints. Name the file to read, or scan a list of both."
                )


def _holds_none(path: Path, kinds: Mapping[str, type[Scan]]) -> str:
    """Why a directory is none that is read, with what to do."""
    inside = sorted(
        file.relative_to(path) for file in path.rglob("*") if file.suffix.lower() in kinds
    )
    if inside:
        folder, suffix = inside[0].parts[0], inside[0].suffix.lower()
        what = f"{path}: holds no file itself, but directories of them, such as {folder}."
        if suffix == ".parquet":
            return (
                f"{what} Read them as a dataset: aq.quantize(pyarrow.dataset.dataset('{path}', "
                "partitioning='hive'))."
            )
        return f"{what} Name one of these."
    unread = [file for file in sorted(path.iterdir()) if converts(file)]
    if unread:
        return unreadable(unread[0], kinds)
    return f"{path}: holds no file that aq.scan reads ({', '.join(kinds)})."


def split_files(path: Path) -> list[Path]:
    """All files of the numbered set that a GGUF file belongs to: llama.cpp takes its first, too."""
    match = _NUMBERED.match(path.stem)
    return [path] if match is None else _numbers(path, match)


def from_split(files: list[Path], setup: Setup) -> Scan:
    """The files of a numbered set that was named by one of them."""
    members = [member_of(file, TensorScan, setup) for file in files]
    check_readable(members)
    return ManyScan(files[0].parent, setup, members)
