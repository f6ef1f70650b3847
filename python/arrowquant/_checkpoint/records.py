"""What a manifest records, and reading it from JSON, which may hold anything."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, TypeVar

from arrowquant._options import SETTINGS
from arrowquant._scan.base import Files

FORMAT = 2
KIND = "arrowquant dataset"
_PLANNED = ("layer_name", "scheme", *SETTINGS.values())
_LARGEST = 2**63 - 1
HASH_DIGITS = 32
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
    hashes: str = ""
    """XXH3 of each row's bytes in the source, 32 hexadecimal digits a row, or as many dashes where
    it had none. Empty in what earlier versions wrote."""

    def hash_of(self, at: int) -> str:
        """The hash of the unit's row `at`; empty where it is not known."""
        return self.hashes[at * HASH_DIGITS : (at + 1) * HASH_DIGITS]

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
    late_units: list[int]
    """Units of files that were missing at first: a retry does these, too."""
    plan: list[dict[str, Any]]
    units: list[Unit]
    parts: list[Part] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    absmax: dict[str, float] = field(default_factory=dict)
    """The largest magnitudes that layers know beside their own: of their parts and siblings."""
    fallbacks: dict[str, str] = field(default_factory=dict)
    """The scheme that a layer fell back from, where its shape did not fit."""
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


def from_json(value: dict[str, Any]) -> Manifest:
    if value.get("kind") != KIND:
        raise ValueError("it does not say that it is one.")
    if _is(int, value["format"]) < FORMAT:
        raise ValueError(
            f"its format is {value['format']}, which versions before 0.2 wrote, and this one reads "
            f"{FORMAT}. Quantize the source again."
        )
    if value["format"] > FORMAT:
        raise ValueError(
            f"its format is {value['format']}, newer than the {FORMAT} that this version reads. "
            "Upgrade arrowquant."
        )
    settings, request = _is(dict, value["settings"]), _is(dict, value["request"])
    if not 0 < _is(int, settings["part_bytes"]) <= _LARGEST:
        raise ValueError(f"part_bytes is {settings['part_bytes']}.")
    for name in ("scheme", "settings", "everything", "rules", "keep"):
        request[name]
    manifest = Manifest(
        id=_is(str, value["id"]),
        library=_is(str, value["library"]),
        source=_is(str, value["source"]),
        files=[_file(*file) for file in value["files"]],
        settings=settings,
        request=request,
        # Earlier versions call them `came`.
        late_units=[_is(int, unit) for unit in value.get("late_units", value.get("came", []))],
        plan=[_planned(row) for row in value["plan"]],
        units=[_unit(unit) for unit in value["units"]],
        parts=[part_from_json(part) for part in value["parts"]],
        attempts=[Attempt(**attempt) for attempt in value["attempts"]],
        absmax={_is(str, name): _is(float, most) for name, most in value.get("absmax", {}).items()},
        fallbacks={
            _is(str, name): _is(str, scheme) for name, scheme in value.get("fallbacks", {}).items()
        },
    )
    _check(manifest)
    return manifest


def _planned(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the plan. Earlier builds had no `signed_scales`: theirs were positive."""
    if "signed_scales" not in row:
        row = row | {"signed_scales": None if row["is_symmetric"] is None else False}
    return {name: row[name] for name in _PLANNED}


def _check(manifest: Manifest) -> None:
    """Refuse numbers that contradict each other: what a job does follows from them."""
    known = {unit.index: unit for unit in manifest.units}
    if len(known) < len(manifest.units) or not manifest.done.keys() <= known.keys():
        raise ValueError("its units and parts contradict each other.")
    if not set(manifest.late_units) <= known.keys():
        raise ValueError("it speaks of units that it does not have.")
    for unit in manifest.units:
        if unit.first_row + unit.rows > _LARGEST or unit.layers > unit.rows:
            raise ValueError(
                f"unit {unit.index} has {unit.layers} layers in {unit.rows} rows from row "
                f"{unit.first_row} on."
            )


def check_rows(manifest: Manifest) -> None:
    """Refuse units that do not follow each other, or that are finished without all their rows.

    Raises:
        ValueError: Rows are in two units or in none, or a unit's files have more or fewer.
    """
    done, end = manifest.done, 0
    for unit in sorted(manifest.units, key=lambda unit: unit.first_row):
        # Where a file came later, the rows that stood for it are gone.
        if unit.first_row < end or (unit.first_row > end and not manifest.late_units):
            raise ValueError(
                f"the manifest was damaged: unit {unit.index} begins with row {unit.first_row} "
                f"instead of {end}. Start afresh with overwrite=True (--overwrite)."
            )
        end = unit.first_row + unit.rows
        rows = (
            sum(file.rows for file in done[unit.index].files) if unit.index in done else unit.rows
        )
        if rows != unit.rows:
            raise ValueError(
                f"the manifest was damaged: unit {unit.index} has {unit.rows} rows, but its files "
                f"have {rows}. `arrowquant verify` says more; start afresh with overwrite=True "
                "(--overwrite)."
            )


def _is(kind: type[T], value: Any) -> T:
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _file(name: Any, size: Any, modified: Any) -> tuple[str, int | None, int | None]:
    for number in (size, modified):
        if number is not None:
            _is(int, number)
    return _is(str, name), size, modified


def _unit(values: list[Any]) -> Unit:
    unit = Unit(*values)
    _is(str, unit.file)
    for number in (unit.index, unit.position, unit.pieces, unit.first_row, unit.rows, unit.layers):
        if _is(int, number) < 0:
            raise ValueError(f"unit {values} has a negative number.")
    _is(int, unit.bytes)
    return unit


def from_receipt(text: str, manifest_id: str) -> Part | None:
    """The part, if the receipt is of this manifest and not of one that it replaced."""
    receipt = json.loads(text)
    return part_from_json(receipt["part"]) if receipt["id"] == manifest_id else None


def part_from_json(value: dict[str, Any]) -> Part:
    """A part as `asdict` made it; its files must lie in the dataset."""
    layers = [_part_file("layers", file) for file in value["layers"]]
    if not layers:
        raise ValueError(f"the part of unit {value['unit']} has no file.")
    failed = _part_file("failed", value["failed"])
    hashes = _is(str, value.get("hashes", ""))
    return Part(_is(int, value["unit"]), layers, failed, _is(int, value["attempt"]), hashes)


def _part_file(folder: str, value: dict[str, Any]) -> PartFile:
    file = PartFile(**value)
    if not re.fullmatch(rf"{folder}/part-\d{{5,}}(-\d+)?\.parquet", _is(str, file.path)):
        raise ValueError(f"{file.path!r} is no file of a dataset.")
    if min(_is(int, file.rows), _is(int, file.bytes)) < 0:
        raise ValueError(f"{file.path} has {file.rows} rows and {file.bytes} bytes.")
    _is(str, file.sha256)
    return file
