"""From a runtime and a size to what is asked of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow as pa

from arrowquant import _core
from arrowquant._checkpoint.request import Request
from arrowquant._export.check import refusals
from arrowquant._export.formats import Format
from arrowquant._model.config import CONFIG
from arrowquant._options import Options, check_settings
from arrowquant._plan import FALLS_BACK, RULE_COLUMNS, answered, is_ruled, read_plan, resolve
from arrowquant._runtimes import convert
from arrowquant._runtimes.base import BITS, Asked, Row, Runtime
from arrowquant._scan import Scan
from arrowquant._scan.tied import tied_head


@dataclass(frozen=True)
class Prepared:
    """What a runtime asks for."""

    format: Format
    request: Request
    notes: list[str]
    """What to tell beforehand."""
    plan: pa.Table | None = None
    """What each layer becomes; None where failed layers are retried as they were planned."""


def prepare(runtime: Runtime, bits: int | None, source: Scan, request: Request) -> Prepared:
    """The request with what the runtime asks for where the user says nothing.

    Raises:
        ValueError: There is no way for that size, or the exporter takes none of the layers.
    """
    notes: list[str] = []
    given = read_plan(request.plan)
    source = answered(source, given)
    outline = source.outline()
    said = check_settings(request.settings)
    if request.scheme is not None:
        form = runtime.format(request.scheme, BITS if bits is None else bits)
        usual = "" if bits is None else f", not the way that {runtime.name} has for {bits} bits"
        notes.append(f"--scheme {request.scheme} is taken{usual}.")
        rules: list[Row] = []
        base = request
    else:
        way = runtime.way(BITS if bits is None else bits)
        form = runtime.format(way.scheme, BITS if bits is None else bits)
        if way.warning is not None:
            notes.append(way.warning)
        check_search(runtime, way.scheme, said)
        for name, value in said.items():
            if way.settings.get(name, value) != value:
                notes.append(f"{name} {value} is taken, not {way.settings[name]}.")
        settings = {**way.settings, **said}
        if settings.get("symmetric") is False and "signed_scales" not in said:
            settings.pop("signed_scales", None)
        base = replace(
            request,
            scheme=way.scheme,
            settings=settings,
            chosen=tuple(x for x in way.include if _has_role(outline, x)),
            keep=(*request.keep, *(x for x in way.keep if _matches(source, x))),
            fallback=request.fallback if way.fallback is None else way.fallback,
        )
        rules = _rules(runtime, BITS if bits is None else bits, source, outline, base, said=said)
    base = replace(
        base,
        plan=_with_rules(given, rules),
        fallbacks=_fallbacks(rules),
        tensor_absmax=form.tensor_absmax,
    )
    plan = base.resolve(outline, source)
    found = refusals(form, source, outline, plan)
    kept_codes = _kept_codes(plan)
    found = {name: why for name, why in found.items() if name not in kept_codes}
    _check_named(form, found, given)
    if found:
        kept = [{"layer_name": name, "scheme": "none"} for name in found]
        others = [row for row in rules if row["layer_name"] not in found]
        notes.append(_told(form, found))
        base = replace(base, plan=_with_rules(given, [*kept, *others]))
    planned = base.resolve(outline, source)
    if set(planned["scheme"].to_pylist()) <= {"none"}:
        if found:
            raise ValueError(f"{source.path}: no layer would be quantized: {notes[-1]}")
        raise ValueError(
            f"{source.path}: no layer would be quantized: {runtime.name} takes none of their "
            f"shapes in {base.scheme}{_such_as(planned)}. Choose another size or runtime (--bits, "
            "--for), or name a scheme (--scheme)."
        )
    return Prepared(form, base, notes, planned)


def check_search(runtime: Runtime, scheme: str, said: Mapping[str, Any]) -> None:
    """Refuse a search that the runtime's scheme does not have, before anything is done.

    Raises:
        ValueError: It does not.
    """
    search = said.get("search")
    if search is not None and search not in _core.searches(scheme):
        raise ValueError(
            f"{runtime.name} takes {scheme}, whose scales are not searched for. Leave search "
            f"{search} and importance out (--search, --importance), or name a scheme that has it "
            "(--scheme), such as int4."
        )


def _such_as(plan: pa.Table) -> str:
    """The shape of a layer that would be quantized, did it fit."""
    matrix = 2
    shapes = [
        row["shape"]
        for row in plan.to_pylist()
        if row["role"] == "weight" and len(row["shape"] or ()) == matrix
    ]
    return f", such as {shapes[0]}" if shapes else ""


def _kept_codes(plan: pa.Table) -> set[str]:
    """The layers that stay as another tool has quantized them: the exporter may decode these."""
    pairs = zip(plan["layer_name"].to_pylist(), plan["reason"].to_pylist(), strict=True)
    return {name for name, why in pairs if (why or "").startswith("already_quantized")}


def check_source(model: Path, form: Format) -> None:
    """Refuse a checkpoint from which no loader's directory can be made, before anything is done.

    Raises:
        ValueError: It is GGUF or ONNX and can't be converted, or lacks `config.json`.
    """
    if not model.exists():
        return
    if form.suffix != ".onnx" and convert.is_onnx(model):
        raise ValueError(
            f"{model}: is ONNX, which {form.name} is not written from. Name the Hugging Face "
            "directory of the model, or take --for onnxruntime."
        )
    if form.suffix is not None:
        return
    if convert.is_gguf(model):
        convert.check_readable(model, form.name)
        return
    folder = model if model.is_dir() else model.parent
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"{folder}: has no config.json, which loaders of {form.name} need. Put the model's "
            "there, or quantize with --scheme and export with --source DIR."
        )


def _check_named(form: Format, found: Mapping[str, str], given: pa.Table | None) -> None:
    """Refuse what the user's own rules ask for and the format can't hold.

    Raises:
        ValueError: There is such a layer.
    """
    for name, why in found.items():
        if is_ruled(given, name):
            reason = f"{form.name}: {why.removesuffix('.')}."
            raise ValueError(f"layer '{name}': the plan asks for it, but {reason}")


def _told(form: Format, found: Mapping[str, str]) -> str:
    """Which layers are kept since the format doesn't take them."""
    name, why = next(iter(found.items()))
    if len(found) == 1:
        return f"layer '{name}' is kept, since {form.name} doesn't take it: {why}."
    return (
        f"{len(found)} layers are kept, since {form.name} doesn't take them: '{name}' and others: "
        f"{why}."
    )


def _fallbacks(rules: list[Row]) -> dict[str, str]:
    """The schemes that layers of the rules fall back from."""
    return {
        row["layer_name"]: row["note"].removeprefix(FALLS_BACK)
        for row in rules
        if row.get("note", "").startswith(FALLS_BACK)
    }


def _has_role(outline: pa.Table, said: str) -> bool:
    """Whether a layer has a role: the runtime's own need not be there."""
    roles = outline["role"].unique().to_pylist() if "role" in outline.schema.names else []
    return said.removeprefix("role:") in roles


def _matches(source: Scan, pattern: str) -> bool:
    """Whether a pattern names a layer: the runtime's own need not."""
    return any(fnmatchcase(name, pattern) for name in source.layer_names)


def _rules(
    runtime: Runtime,
    bits: int,
    source: Scan,
    outline: pa.Table,
    base: Request,
    *,
    said: Mapping[str, Any],
) -> list[Row]:
    """What the runtime asks for of single layers, where nobody else has said anything."""
    given = read_plan(base.plan)
    known: dict[Any, dict[str, Row]] = {}

    def plan(scheme: str, settings: Mapping[str, Any]) -> Mapping[str, Row]:
        key = (scheme, *sorted(settings.items()))
        if key not in known:
            options = Options(scheme, {**said, **settings}, fallback=base.fallback)
            include = [*base.include, *base.chosen]
            table = resolve(outline, options, base.keep, None, include=include)
            known[key] = {row["layer_name"]: row for row in table.to_pylist()}
        return known[key]

    rows = [
        row
        for row in base.resolve(outline, source).to_pylist()
        if row["scheme"] != "none" and not is_ruled(given, row["layer_name"])
    ]
    tied = tied_head(rows, source)  # It becomes what the table does.
    rows = [row for row in rows if row["layer_name"] != tied]
    rules = runtime.rules(Asked(bits, rows, plan, source.metadata, said))
    return [row for row in rules if not is_ruled(given, row["layer_name"])]


def _with_rules(given: pa.Table | None, rules: list[Row]) -> pa.Table | None:
    """The user's rules, then others: the first that matches counts."""
    if not rules:
        return given
    schema = pa.schema(RULE_COLUMNS)
    own = pa.Table.from_pylist([{k: v for k, v in x.items() if k != "note"} for x in rules], schema)
    if given is None:
        return own
    named = [name for name in schema.names if name in given.schema.names]
    first = pa.Table.from_pylist(given.select(named).to_pylist(), schema)
    return pa.concat_tables([first, own])
