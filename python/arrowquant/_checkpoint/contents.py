"""Whether a source whose files have changed still holds what was quantized from it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from arrowquant._checkpoint.records import HASH_DIGITS, Manifest, Part, Unit
from arrowquant._checkpoint.unit import row_hashes
from arrowquant._errors import QuantizationWarning
from arrowquant._scan import Scan

_SHOWN = 3


def changed_layers(
    source: Scan,
    destination: Path,
    manifest: Manifest,
    names: Iterable[str],
    threads: int | None,
) -> list[str]:
    """The good layers of files that are not as they were, worded; none where all are the same.

    Args:
        source: As it is now.
        destination: The dataset.
        manifest: With the hashes of what is done.
        names: The files that have other times or sizes.
        threads: As for `aq.quantize`.

    Warns:
        QuantizationWarning: Files are compared, which takes the time of reading them.
    """
    wanted, done = set(names), manifest.done
    units = [unit for unit in manifest.units if unit.file in wanted and unit.index in done]
    if units:
        message = (
            f"{', '.join(sorted(wanted))}: changed since the job began. The finished layers are "
            "compared with what is there now."
        )
        warnings.warn(QuantizationWarning(message), stacklevel=5)
    changed: list[str] = []
    for unit in units:
        changed += _changed(source, destination, unit, done[unit.index], threads)
        if len(changed) > _SHOWN:
            break
    more = ["and more"] if len(changed) > _SHOWN else []
    return changed[:_SHOWN] + more


def _changed(
    source: Scan, destination: Path, unit: Unit, part: Part, threads: int | None
) -> list[str]:
    """The good layers of a unit that are not as they were."""
    failed = pq.read_table(destination / part.failed.path, columns=["row_index"])["row_index"]
    failures = {index - unit.first_row for index in failed.to_pylist()}
    if len(failures) == unit.rows:
        return []
    if len(part.hashes) != unit.rows * HASH_DIGITS:
        return [f"source file {unit.file} has another time, and its contents were not recorded"]
    found, start = [], unit.first_row
    try:
        for batch in source.stretch(unit.file, unit.position, unit.pieces):
            indices = pa.array(range(start, start + batch.num_rows), pa.int64())
            start += batch.num_rows
            layers = batch["layer_name"].to_pylist()
            for (place, value), layer in zip(
                row_hashes(batch, indices, unit, threads).items(), layers, strict=True
            ):
                if place not in failures and part.hash_of(place) != value:
                    found.append(f"layer '{layer}' of {unit.file} is not as it was")
    except (OSError, pa.ArrowException) as error:
        found.append(f"source file {unit.file} can't be read: {error}")
    return list(dict.fromkeys(found))


def good_layers(destination: Path, manifest: Manifest, names: Iterable[str]) -> set[str]:
    """The layers of these files that are quantized or kept."""
    wanted, done = set(names), manifest.done
    return {
        name
        for unit in manifest.units
        if unit.file in wanted and unit.index in done
        for file in done[unit.index].layers
        for name in pq.read_table(destination / file.path, columns=["layer_name"])[0].to_pylist()
    }
