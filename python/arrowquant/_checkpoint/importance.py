"""`importance="auto"`: a table that is made first, where it can be."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from arrowquant._checkpoint import manifest as manifests
from arrowquant._checkpoint.request import Request
from arrowquant._errors import QuantizationWarning
from arrowquant._importance import Importance, is_auto, told
from arrowquant._progress import ProgressCallback


def with_table(
    request: Request, model: Path, place: Path, progress: bool | ProgressCallback
) -> tuple[Request, list[str]]:
    """The request with the table that it asks for, and what to tell of it.

    A dataset at `place` that has begun keeps its own. Where the model can't be run, its weights
    alone say how much columns matter, if it is of a kind that is known; else each layer is weighed
    by what its own weights suggest, and a warning says why.

    Raises:
        OSError, ValueError: The dataset's own can't be read.

    Warns:
        QuantizationWarning: None can be made.
    """
    if not is_auto(request.importance):
        return request, []
    if request.retry_failed:
        return replace(request, importance=None), []
    if manifests.exists(place) and not request.overwrite:
        return _with(request, manifests.load_importance(place, manifests.load(place))), []
    from arrowquant._importance.calibrate import importance
    from arrowquant._importance.propagated import propagated
    from arrowquant._importance.skeleton import WITHOUT

    state = state_of(place)
    try:
        table = importance(model, state=state, threads=request.threads, progress=progress)
    except (ImportError, NotADirectoryError, ValueError) as error:
        state.unlink(missing_ok=True)
        why = str(error).removesuffix(WITHOUT).rstrip()
        if (known := propagated(model)) is not None:
            note = f"importance: found for {told(known)}. The model was not run: {why}"
            return _with(request, Importance.read(known)), [note]
        text = (
            f"no importance was found, so layers are weighed by what their weights suggest: {why}"
        )
        warnings.warn(QuantizationWarning(text), stacklevel=3)
        return _with(request, None), []
    return _with(request, Importance.read(table)), [f"importance: found for {told(table)}."]


def state_of(place: Path) -> Path:
    """Where what is found of importance is kept until all is."""
    place = place.absolute()
    return place.with_name(f".{place.name}.importance")


def _with(request: Request, table: Importance | None) -> Request:
    return replace(request, importance=table)
