"""What a dataset's directory says of itself: `manifest.json`, and receipts for what was done since.

A unit is done once its receipt has its name: the data and failed rows that it speaks of are in
place by then. So whatever a killed job leaves behind is either receipted, or removed by the next
one. When a job ends, receipts move into the manifest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from arrowquant._parquet import replacing
from arrowquant._scan.base import Files

FORMAT = 1
_NAME = "manifest.json"
_RECEIPTS = ".receipts"
_OURS = re.compile(r"\.?part-\d{5,}(-\d+)?\.(parquet|json)(\.[0-9a-f]+\.tmp)?")


@dataclass(frozen=True)
class Unit:
    """A stretch of the source that is done as one, and what it holds."""

    index: int
    file: int
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
    """What must agree where a job goes on, beside the plan."""
    plan: list[dict[str, Any]]
    units: list[Unit]
    parts: list[Part] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    format: int = FORMAT

    @property
    def done(self) -> dict[int, Part]:
        """The finished units' parts."""
        return {part.unit: part for part in self.parts}

    @property
    def layers(self) -> int:
        """How many layers the source has."""
        return sum(unit.layers for unit in self.units)


def exists(dataset: Path) -> bool:
    """Whether the directory has a manifest."""
    return (dataset / _NAME).exists()


def load(dataset: Path) -> Manifest:
    """Read the manifest, and the receipts that are not in it yet.

    Raises:
        OSError: It can't be read.
        ValueError: It is none, or of a newer format.
    """
    path = dataset / _NAME
    try:
        manifest = _from_json(json.loads(path.read_text("utf-8")))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{dataset}: is no dataset: it has no {_NAME}.") from error
    except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: is no manifest of a dataset: {error!r}.") from error
    parts = manifest.done
    for receipt in _receipts(dataset):
        if receipt["id"] == manifest.id:
            part = _part(receipt["part"])
            parts[part.unit] = part
    manifest.parts = [parts[unit] for unit in sorted(parts)]
    return manifest


def _from_json(value: dict[str, Any]) -> Manifest:
    if value["format"] > FORMAT:
        raise ValueError(
            f"the dataset has format {value['format']}, newer than the {FORMAT} that this version "
            "reads. Upgrade arrowquant."
        )
    return Manifest(
        id=value["id"],
        library=value["library"],
        source=value["source"],
        files=[(name, size, modified) for name, size, modified in value["files"]],
        settings=value["settings"],
        plan=value["plan"],
        units=[Unit(*unit) for unit in value["units"]],
        parts=[_part(part) for part in value["parts"]],
        attempts=[Attempt(**attempt) for attempt in value["attempts"]],
        format=value["format"],
    )


def _part(value: dict[str, Any]) -> Part:
    files = [PartFile(**file) for file in value["layers"]]
    return Part(value["unit"], files, PartFile(**value["failed"]), value["attempt"])


def save(dataset: Path, manifest: Manifest) -> None:
    """Write the manifest whole, then remove the receipts, which are in it now."""
    value = asdict(manifest)
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


def commit(dataset: Path, manifest: Manifest, part: Part) -> None:
    """Write a unit's receipt: from then on it is done."""
    path = dataset / _RECEIPTS / f"part-{part.unit:05}.json"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"id": manifest.id, "part": asdict(part)}), "utf-8")


def _receipts(dataset: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((dataset / _RECEIPTS).glob("part-*.json")):
        yield json.loads(path.read_text("utf-8"))


def prepare(dataset: Path) -> None:
    """Make the directories."""
    for name in ("layers", "failed", _RECEIPTS):
        (dataset / name).mkdir(parents=True, exist_ok=True)


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
