"""What a dataset's directory says of itself: `manifest.json`, and receipts for what was done since.

A unit is done once its receipt has its name: the data and failed rows that it speaks of are in
place by then. So whatever a killed job leaves behind is either receipted, or removed by the next
one. When a job ends, receipts move into the manifest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from arrowquant._parquet import replacing
from arrowquant._scan.base import Files

FORMAT = 1
KIND = "arrowquant dataset"
_NAME = "manifest.json"
_RECEIPTS = ".receipts"
_PLANNED = ("layer_name", "scheme", "group_size", "is_symmetric")
_OURS = re.compile(r"\.?part-\d{5,}(-\d+)?\.(parquet|json)(\.[0-9a-f]+\.tmp)?")


T = TypeVar("T")


@dataclass(frozen=True)
class Unit:
    """A stretch of the source that is done as one, and what it holds."""

    index: int
    file: str
    """The source's key of it: its name, for one that is there."""
    position: int
    pieces: int
    first_row: int
    rows: int
    layers: int
    bytes: int


@dataclass(frozen=True)
class PartFile:
    """A file of the dataset."""

    path: str
    """Relative to the dataset."""
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """What became of a unit."""

    unit: int
    layers: list[PartFile]
    """Good rows: of the first attempt, then of each that did what had failed."""
    failed: PartFile
    attempt: int

    @property
    def files(self) -> list[PartFile]:
        """All its files."""
        return [*self.layers, self.failed]


@dataclass
class Attempt:
    """A run of the job."""

    started: str
    library: str
    retried_failed: bool
    options: dict[str, Any]
    seconds: float | None = None
    """None while it runs, and where it was killed."""
    units: int = 0
    layers: int = 0
    bytes: int = 0
    failed_rows: int = 0
    outcome: str | None = None


@dataclass
class Manifest:
    """All of it."""

    id: str
    library: str
    source: str
    files: Files
    settings: dict[str, Any]
    """What must agree where a job goes on, beside files and plan."""
    request: dict[str, Any]
    """What it was begun with, from which the plan was made."""
    came: list[int]
    """Units of files that were missing at first and came: a retry does these, too."""
    plan: list[dict[str, Any]]
    units: list[Unit]
    parts: list[Part] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    format: int = FORMAT
    kind: str = KIND

    @property
    def done(self) -> dict[int, Part]:
        """The finished units' parts."""
        return {part.unit: part for part in self.parts}

    @property
    def layers(self) -> int:
        """How many layers the source has."""
        return sum(unit.layers for unit in self.units)


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
    manifest = _parse(dataset / _NAME, lambda: _from_json(json.loads(text)))
    _merge(manifest, dataset, receipts)
    return manifest


def merge_receipts(dataset: Path, manifest: Manifest) -> None:
    """Add to the manifest what was done since it was saved, whoever did it."""
    _merge(manifest, dataset, [path.read_text("utf-8") for path in _receipts(dataset)])


def _merge(manifest: Manifest, dataset: Path, receipts: list[str]) -> None:
    parts, known = manifest.done, {unit.index for unit in manifest.units}
    for receipt in receipts:
        part = _parse(dataset / _RECEIPTS, lambda: _from_receipt(receipt, manifest.id))  # noqa: B023
        if part is not None and part.unit in known:
            parts[part.unit] = part
    manifest.parts = [parts[unit] for unit in sorted(parts)]


def receipt_of(dataset: Path, manifest_id: str, unit: int, attempt: int) -> Part | None:
    """What an attempt at a unit came to, where it came to its end."""
    path = dataset / _RECEIPTS / f"part-{unit:05}.json"
    if not path.exists():
        return None
    part = _parse(path, lambda: _from_receipt(path.read_text("utf-8"), manifest_id))
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


def _from_json(value: dict[str, Any]) -> Manifest:
    if value.get("kind") != KIND:
        raise ValueError("it does not say that it is one.")
    if _is(int, value["format"]) > FORMAT:
        raise ValueError(
            f"its format is {value['format']}, newer than the {FORMAT} that this version reads. "
            "Upgrade arrowquant."
        )
    settings, request = _is(dict, value["settings"]), _is(dict, value["request"])
    _is(int, settings["part_bytes"])
    _is(str, settings["scale_dtype"])
    for name in ("scheme", "group_size", "symmetric", "scale_dtype", "everything", "rules", "keep"):
        request[name]
    manifest = Manifest(
        id=_is(str, value["id"]),
        library=_is(str, value["library"]),
        source=_is(str, value["source"]),
        files=[(_is(str, name), size, modified) for name, size, modified in value["files"]],
        settings=settings,
        request=request,
        came=[_is(int, unit) for unit in value["came"]],
        plan=[{name: row[name] for name in _PLANNED} for row in value["plan"]],
        units=[_unit(unit) for unit in value["units"]],
        parts=[part_from_json(part) for part in value["parts"]],
        attempts=[Attempt(**attempt) for attempt in value["attempts"]],
    )
    known = {unit.index for unit in manifest.units}
    if len(known) < len(manifest.units) or not manifest.done.keys() <= known:
        raise ValueError("its units and parts contradict each other.")
    return manifest


def _is(kind: type[T], value: Any) -> T:
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _unit(values: list[Any]) -> Unit:
    unit = Unit(*values)
    _is(str, unit.file)
    for number in (unit.index, unit.position, unit.pieces, unit.first_row, unit.rows, unit.layers):
        if _is(int, number) < 0:
            raise ValueError(f"unit {values} has a negative number.")
    _is(int, unit.bytes)
    return unit


def _from_receipt(text: str, manifest_id: str) -> Part | None:
    """The part, if the receipt is of this manifest and not of one that it replaced."""
    receipt = json.loads(text)
    return part_from_json(receipt["part"]) if receipt["id"] == manifest_id else None


def part_from_json(value: dict[str, Any]) -> Part:
    """A part as `asdict` made it; its files must lie in the dataset."""
    layers = [_part_file("layers", file) for file in value["layers"]]
    if not layers:
        raise ValueError(f"the part of unit {value['unit']} has no file.")
    failed = _part_file("failed", value["failed"])
    return Part(_is(int, value["unit"]), layers, failed, _is(int, value["attempt"]))


def _part_file(folder: str, value: dict[str, Any]) -> PartFile:
    file = PartFile(**value)
    if not re.fullmatch(rf"{folder}/part-\d{{5,}}(-\d+)?\.parquet", _is(str, file.path)):
        raise ValueError(f"{file.path!r} is no file of a dataset.")
    _is(int, file.rows)
    _is(int, file.bytes)
    _is(str, file.sha256)
    return file


def save(dataset: Path, manifest: Manifest) -> None:
    """Write the manifest whole, then remove the receipts, which are in it now."""
    for name in ("layers", "failed", _RECEIPTS):
        (dataset / name).mkdir(exist_ok=True)
    value = asdict(manifest)
    value = {"kind": value.pop("kind"), "format": value.pop("format"), **value}
    # One line each, so that people can read it: a checkpoint has thousands of these.
    value["units"] = [list(asdict(unit).values()) for unit in manifest.units]
    with replacing(dataset / _NAME) as temporary:
        temporary.write_text(_dump(value), "utf-8")
    for path in (dataset / _RECEIPTS).glob("part-*.json"):
        path.unlink()


def _dump(value: dict[str, Any]) -> str:
    fields = []
    for key, item in value.items():
        if isinstance(item, list) and item:
            lines = ",\n".join(f"    {json.dumps(entry)}" for entry in item)
            fields.append(f"  {json.dumps(key)}: [\n{lines}\n  ]")
        else:
            fields.append(f"  {json.dumps(key)}: {json.dumps(item)}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


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
        elif not path.name.startswith("."):
            found.append(path.name)
    return found


def remove_temporary(dataset: Path) -> None:
    """Remove the files without names of writers that died."""
    for folder in ("layers", "failed", _RECEIPTS):
        for path in (dataset / folder).glob(".part-*.tmp"):
            if _OURS.fullmatch(path.name):
                path.unlink(missing_ok=True)


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
