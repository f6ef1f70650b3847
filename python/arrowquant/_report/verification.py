"""What `aq.verify` found, for people."""

from __future__ import annotations

from pathlib import Path

from arrowquant._checkpoint import manifest
from arrowquant._checkpoint.verify import Verification
from arrowquant._export import is_exportable
from arrowquant._report.console import console, many, print_json
from arrowquant._report.tables import Column, show

_COLUMNS = (
    Column("file", lambda row: row["file"], keep=5),
    Column(
        "row", lambda row: "" if row["row_index"] is None else str(row["row_index"]), right=True
    ),
    Column("layer", lambda row: row["layer_name"], name=True),
    Column("problem", lambda row: row["problem"], text=True),
)


def verification(path: Path, found: Verification, *, as_json: bool) -> None:
    """Print what was looked at and found."""
    counts = {
        "files": found.files,
        "rows": found.rows,
        "failed_rows": found.failed_rows,
        "compared": found.compared,
    }
    if as_json:
        print_json({"dataset": str(path), "ok": found.ok, **counts, "problems": found.found})
        return
    out = console()
    if found.found:
        out.print(f"Problems ({len(found.found)})")
        show(out, found.found, _COLUMNS)
        out.print()
    against = f", {found.compared} compared with the source" if found.compared else ""
    out.print(
        f"{path}: {many(found.files, 'file')}, {many(found.rows, 'row')} decoded{against}, "
        f"{many(found.failed_rows, 'failed row')}",
        soft_wrap=True,
    )
    if not found.ok:
        return
    out.print("no problems")
    if found.failed_rows:
        source = manifest.load(path).source
        following = f"quantize {source} -o {path} --retry-failed --scheme none"
    elif is_exportable(path):
        following = f"export {path} -o EXPORTED"
    else:
        following = f"dequantize {path} -o BACK.safetensors"
    out.print(f"Next: arrowquant {following}", soft_wrap=True)
