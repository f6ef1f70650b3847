"""`aq.plan`."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Unpack

import pyarrow as pa
import pyarrow.compute as pc

from arrowquant import _core
from arrowquant._errors import QuantizationWarning
from arrowquant._files import replacing, user_path
from arrowquant._inputs import as_table, as_weights
from arrowquant._inputs.arrow import is_path
from arrowquant._model import axis_rules
from arrowquant._options import Options, Scheme, Settings
from arrowquant._scan import Scan, scan
from arrowquant._scan.tied import follow_table


def plan(
    weights: Any,
    *,
    scheme: Scheme | None = None,
    keep: Sequence[str] = (),
    include: Sequence[str] = (),
    plan: Any = None,
    fallback: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    **settings: Unpack[Settings],
) -> pa.Table:
    """Return what will be done with each layer and what it will take, reading no weights.

    A layer is quantized if it is F64, F32, F16 or BF16, has two or more dimensions larger than 1, a
    last dimension of at least 32, and gets smaller; and if its role, where it has one, is `weight`:
    embeddings, heads, routers and the like are kept, since runtimes don't take them quantized. The
    table is a `plan=` for `aq.quantize`, and can be changed like any other before.

    Args:
        weights: As for `aq.quantize`. Of a one-shot stream nothing is left after it.
        scheme: As for `aq.quantize`.
        keep: Layers to keep: shell patterns (`*`, `?`, `[...]`) of names, or roles, such as
            `role:vision`.
        include: Layers to quantize although their role keeps them, likewise; `role:embedding`.
        plan: What to do with some layers, whatever they are: as for `aq.quantize`. What is null or
            absent in a row is as for all. A column `stack_axis` says how stacks of experts of a
            scan lie where nothing else tells it: -1 for `[E, out, in]`, -2 for `[E, in, out]`; a
            row with nothing else asks for no scheme.
        fallback: Schemes for layers whose shape `scheme` does not take: the first that fits. None:
            the scheme's own, such as `q5_0` for `q4_k`. What fits none is kept.
        columns: As for `aq.quantize`.
        settings: As for `aq.quantize`.

    Returns:
        `layer_name, shape, dtype, role, scheme`, the settings `group_size, group_rows,
        is_symmetric, scale_dtype, signed_scales, search`, then `source_bytes`,
        `predicted_bytes` (codes, scales and zero points, or the kept bytes), `reason` why a layer
        is kept (`one_dimensional`, `not_float`, `no_gain`, `unsupported_shape`, `kept_by_user`,
        `kept_by_role`, `already_quantized (...)`, `unknown_axis (...)`,
        `contradictory_stack (...)`), `note` on layers that fall back from a scheme, are decoded
        first, or are often kept, `companion_of`, the tensor that scales and the like belong to, and
        `stack_axis`, the contracted axis of the stack that a matrix is of, null where it is
        unknown: fill it in to say it. Sizes are exact, but for a layer whose scales overflow
        `scale_dtype="F16"`: it takes F32, which only its values tell.

    Raises:
        TypeError, ValueError: The call is wrong.

    Warns:
        QuantizationWarning: Something in `keep` or `include` matches no layer, or no layer follows
            a rule.
    """
    options = Options(scheme, settings, fallback=fallback)
    if is_path(weights):
        weights = scan(weights)
    source = weights
    ruled = read_plan(plan)
    if isinstance(weights, Scan) and columns is None:
        weights = weights.with_axes(axis_rules(ruled)).without_data()
    table = resolve(as_weights(weights, columns), options, keep, ruled, include=include)
    named = [] if ruled is None else ruled["layer_name"].to_pylist()
    return follow_table(table, source, [*keep, *include, *(name for name in named if name)])


FALLS_BACK = "falls back from "


def fallbacks_of(plan: pa.Table) -> dict[str, str]:
    """The scheme that each layer falls back from, of a plan's layers that do."""
    notes = zip(plan["layer_name"].to_pylist(), plan["note"].to_pylist(), strict=True)
    return {
        name: note.removeprefix(FALLS_BACK)
        for name, note in notes
        if name is not None and (note or "").startswith(FALLS_BACK)
    }


def with_fallbacks(plan: pa.Table, fallbacks: Mapping[str, str]) -> pa.Table:
    """The plan with a note on layers that fall back from these schemes."""
    if not fallbacks:
        return plan
    pairs = zip(plan["layer_name"].to_pylist(), plan["note"].to_pylist(), strict=True)
    notes = [
        note or (f"{FALLS_BACK}{fallbacks[x]}" if x in fallbacks else None) for x, note in pairs
    ]
    at = plan.schema.get_field_index("note")
    return plan.set_column(at, plan.schema.field(at), pa.array(notes, plan.schema.field(at).type))


def resolve(
    source: Any,
    options: Options,
    keep: Sequence[str],
    rules: Any,
    *,
    include: Sequence[str] = (),
    everything: bool = False,
) -> pa.Table:
    """Return the plan of a weights relation that the core can import.

    With `everything`, layers that no rule matches are quantized, whatever they are.

    Raises:
        TypeError, ValueError: As `plan`.
    """
    for option, patterns in (("keep", keep), ("include", include)):
        check_patterns(option, patterns)
    table = _without_answers(read_plan(rules))
    if everything:
        table = _with_last_rule(table)
    batches, schema, unmatched = _core.plan(source, list(keep), list(include), table, options)
    unmatched_keep, unmatched_include, unmatched_rules = unmatched
    if everything and "*" in unmatched_rules:
        unmatched_rules.remove("*")
    _warn("keep matches no layer", unmatched_keep)
    _warn("include matches no layer", unmatched_include)
    _warn("no layer follows the plan's rows", unmatched_rules)
    return pa.Table.from_batches([pa.record_batch(batch) for batch in batches], pa.schema(schema))


def answered(weights: Any, plan: pa.Table | None) -> Any:
    """The weights; a scan, or a path of one, as the plan says that its stacks of experts lie."""
    rules = axis_rules(plan)
    if rules and is_path(weights):
        weights = scan(weights)
    return weights.with_axes(rules) if rules and isinstance(weights, Scan) else weights


def is_ruled(rules: pa.Table | None, layer: str) -> bool:
    """Whether a rule matches a layer."""
    patterns = [] if rules is None else rules["layer_name"].to_pylist()
    return any(p is not None and (p == layer or fnmatchcase(layer, p)) for p in patterns)


def check_patterns(option: str, patterns: Sequence[str]) -> None:
    """Refuse one text where a sequence of them is meant.

    Raises:
        TypeError: It is one.
    """
    if isinstance(patterns, str):
        raise TypeError(f"{option} must be a sequence of patterns, got the string {patterns!r}.")


def _warn(what: str, patterns: list[str]) -> None:
    if patterns:
        names = ", ".join(repr(pattern) for pattern in patterns)
        warnings.warn(QuantizationWarning(f"{what}: {names}."), stacklevel=4)


def _without_answers(rules: pa.Table | None) -> pa.Table | None:
    """The rules without rows that only say how a stack lies: they ask for no scheme."""
    if rules is None or "stack_axis" not in rules.schema.names:
        return rules
    said = pc.is_null(rules["stack_axis"])
    for name in ("scheme", *SETTING_TYPES):
        if name in rules.schema.names:
            said = pc.or_(said, pc.is_valid(rules[name]))
    return rules.filter(said).drop_columns(["stack_axis"])


def _with_last_rule(rules: Any) -> pa.Table:
    """The rules, and one that matches whatever they don't."""
    schema = pa.schema(RULE_COLUMNS)
    last = pa.Table.from_pylist([{"layer_name": "*"}], schema)
    if rules is None:
        return last
    given = as_table(rules, "plan")
    given = given.select([name for name in schema.names if name in given.schema.names])
    for field in schema:
        if field.name not in given.schema.names:
            given = given.append_column(field, pa.nulls(given.num_rows, field.type))
    return pa.concat_tables([given.select(schema.names).cast(schema), last])


_TYPES = {"int": pa.int64(), "bool": pa.bool_(), "str": pa.string()}
SETTING_TYPES = {column: _TYPES[kind] for _, column, kind, *_ in _core.settings()}
"""The columns of settings in a plan."""

RULE_COLUMNS = {
    "layer_name": pa.string(),
    "scheme": pa.string(),
    **SETTING_TYPES,
    "stack_axis": pa.int64(),
}


SUFFIXES = (".parquet", ".csv", ".json")


def write_plan(table: pa.Table, path: Path, *, overwrite: bool) -> None:
    """Write a plan as its path's suffix says; a shape is text in CSV."""
    with replacing(path, overwrite=overwrite) as temporary:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            pq.write_table(table, temporary)
        elif path.suffix.lower() == ".json":
            temporary.write_text(json.dumps(table.to_pylist(), indent=1) + "\n", "utf-8")
        else:
            from pyarrow import csv

            shapes = [None if shape is None else str(shape) for shape in table["shape"].to_pylist()]
            at = table.schema.get_field_index("shape")
            csv.write_csv(table.set_column(at, "shape", pa.array(shapes, pa.string())), temporary)


def read_plan(plan: Any, what: str = "plan") -> pa.Table | None:
    """Return a plan, in a file or in any Arrow object, as a table; `what` is it called in messages.

    Raises:
        OSError, TypeError, ValueError: It can't be read, or has no `layer_name`.
    """
    if plan is None:
        return None
    if not isinstance(plan, (str, os.PathLike)):
        return as_table(plan, what)
    path = user_path(plan)
    if not path.is_file():
        raise FileNotFoundError(f"{what}: {path}: no such file.")
    try:
        table = _read_table(path)
        _core.check_plan(table.schema)
    except (pa.ArrowInvalid, ValueError) as error:
        text = str(error)
        raise ValueError(text if str(path) in text else f"{path}: {text}") from error
    names = [name for name in RULE_COLUMNS if name in table.schema.names]
    if "layer_name" in names and len(names) == 1 and table.schema.names != names:
        others = [name for name in table.schema.names if name != "layer_name"]
        raise ValueError(_says_nothing(path, others))
    return table.select(names)


def _read_table(path: Path) -> pa.Table:
    kind = path.suffix.lower()
    if kind == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path)
    if kind == ".csv":
        from pyarrow import csv

        # An empty cell is a null; a layer may be called anything else.
        convert = csv.ConvertOptions(
            column_types=RULE_COLUMNS, strings_can_be_null=True, null_values=[""]
        )
        return csv.read_csv(path, convert_options=convert)
    if kind in {".json", ".jsonl", ".ndjson"}:
        rows = _read_json(path)
        keys = dict.fromkeys(key for row in rows for key in row)
        known = [(name, kind) for name, kind in RULE_COLUMNS.items() if name in keys]
        try:
            table = pa.Table.from_pylist(rows, pa.schema(known))
            for name in keys - RULE_COLUMNS.keys():  # What others say is not read.
                table = table.append_column(name, pa.nulls(table.num_rows))
            return table
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"{path}: {error}") from error
    raise ValueError(f"{path}: a plan is a file in Parquet, CSV or JSON, by its suffix.")


def _read_json(path: Path) -> list[dict[str, Any]]:
    """A list of objects, or an object a line, as SQL engines write it."""
    text = path.read_text("utf-8")
    try:
        if text.lstrip().startswith("["):
            rows: list[dict[str, Any]] = json.loads(text)
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no JSON: {error}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: must be a list of objects with a 'layer_name'.")
    return rows


def _says_nothing(path: Path, others: list[str]) -> str:
    known = ", ".join(repr(name) for name in RULE_COLUMNS if name != "layer_name")
    return (
        f"{path}: says nothing of what to do: it has {', '.join(map(repr, others))}, but none of "
        f"{known}."
    )
