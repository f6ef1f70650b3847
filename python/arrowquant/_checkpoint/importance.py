"""`importance="auto"`: a table that is made first, where it can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from arrowquant._checkpoint import manifest as manifests
from arrowquant._checkpoint.request import Request
from arrowquant._importance import AUTO, Importance
from arrowquant._progress import ProgressCallback


def with_table(
    request: Request, model: Path, place: Path, progress: bool | ProgressCallback
) -> tuple[Request, list[str]]:
    """The request with the table that it asks for, and what to tell of it.

    A dataset at `place` that has begun keeps its own. Where none can be made, layers are weighed by
    what their weights suggest.

    Raises:
        OSError, ValueError: The dataset's own can't be read.
    """
    if request.importance != AUTO:
        return request, []
    if manifests.exists(place) and not request.overwrite:
        if request.retry_failed:
            return replace(request, importance=None), []
        known = manifests.load_importance(place, manifests.load(place))
        return _with(request, known), []
    from arrowquant._importance.calibrate import WITHOUT, importance

    state = place.with_name(f".{place.name}.importance")
    try:
        table = importance(model, state=state, threads=request.threads, progress=progress)
    except (ImportError, NotADirectoryError, ValueError) as error:
        note = "importance: none was found, so layers are weighed by what their weights suggest."
        return _with(request, None), [f"{note} {error}".removesuffix(WITHOUT).rstrip()]
    tokens, source = (table[name][0].as_py() for name in ("tokens", "source"))
    note = f"importance: found for {table.num_rows} layers, from {tokens} tokens of {source}."
    return _with(request, Importance.read(table)), [note]


def _with(request: Request, table: Importance | None) -> Request:
    return replace(request, importance=table)
