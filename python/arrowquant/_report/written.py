"""What was written, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arrowquant._report.console import console, layers, many, print_json, printable, size
from arrowquant._report.failures import failures


def exported(folder: Path, load: str | None, *, as_json: bool) -> None:
    """Print what an exported directory, or file, holds, and the command that loads it."""
    beside = folder.with_name(f"{folder.name}.data")  # The numbers of an ONNX model.
    found = sorted(folder.rglob("*")) if folder.is_dir() else [folder, beside]
    base = folder if folder.is_dir() else folder.parent
    sizes = {
        path.relative_to(base).as_posix(): path.stat().st_size
        for path in found
        if path.is_file() and not path.name.startswith(".")
    }
    if as_json:
        print_json({"output": str(folder), "files": sizes})
        return
    out = console()
    for name, count in sizes.items():
        out.print(f"  {printable(name)}  {size(count)}", soft_wrap=True)
    out.print(f"{folder}: {many(len(sizes), 'file')}, {size(sum(sizes.values()))}", soft_wrap=True)
    if load is not None:
        out.print(f"Next: {load}", soft_wrap=True, markup=False)


def left_out(output: Path, rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print where the checkpoint is and which layers it lacks."""
    if as_json:
        print_json({"output": str(output), "failures": rows})
        return
    out = console()
    if rows:
        out.print(f"{layers(len(rows))} left out:")
        failures(out, rows, None)
    out.print(f"{output} has {size(output.stat().st_size)}", soft_wrap=True)
