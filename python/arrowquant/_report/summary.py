"""What became of a checkpoint, for people."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from arrowquant._parquet import failed_path
from arrowquant._report.console import console, layers, number, print_json, size
from arrowquant._report.failures import failures, finished
from arrowquant._report.tables import Column, show
from arrowquant._summary import Summary

LOWEST = (
    Column("layer", lambda row: row["layer_name"], name=True),
    Column("scheme", lambda row: row["scheme"]),
    Column("bits per weight", lambda row: number(row["bits_per_weight"]), right=True, keep=5),
    Column("SNR dB", lambda row: number(row["snr_db"]), right=True),
)


WIDEST = (
    Column("layer", lambda row: row["layer_name"], name=True),
    Column("scheme", lambda row: row["scheme"]),
    Column("SNR dB", lambda row: number(row["snr_db"]), right=True, keep=5),
    Column("largest scale / median", lambda row: _ratio(row["scale_spread"]), right=True),
)
_LONG = 1e6
OUTLIERS = "Scales far apart: an outlier may hide what the rest of its group has lost"


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value < _LONG else f"{value:.1e}"


_EXPLAINED = ("unknown_axis", "contradictory_stack")
"""Reasons that say what to do."""
_MOST = 3


def explained(reasons: Iterable[str | None]) -> list[str]:
    """The reasons for keeping layers that say what to do, the first of them."""
    long = [reason for reason in reasons if reason and reason.startswith(_EXPLAINED)]
    return list(dict.fromkeys(long))[:_MOST]


def fell_back(ways: list[str], share: float) -> str:
    """What layers became whose shape did not fit."""
    which = ", ".join(ways)
    return f"{share:.0%} of the quantized weights fall back, {which}: their rows don't fit."


def again(count: int) -> str:
    """What to do with layers that are quantized already."""
    return (
        f"{layers(count)} {'is' if count == 1 else 'are'} quantized already and kept. "
        "--scheme NAME decodes and quantizes them again."
    )


def summary(
    summary: Summary,
    model: Path,
    *,
    as_json: bool,
    written: Path | None = None,
    retry: str | None = None,
) -> None:
    """Print what became of a checkpoint.

    Args:
        summary: What is printed.
        model: The source.
        as_json: For machines.
        written: What was exported of it, whose own report follows.
        retry: The command that was given, where layers failed and it is to be given once more.
    """
    if as_json:
        print_json(summary.as_json() | ({} if written is None else {"written": str(written)}))
        return
    out = console()
    if summary.worst:
        out.print("Lowest SNR")
        show(out, summary.worst, LOWEST)
    if summary.outlying:
        out.print(f"\n{OUTLIERS}", soft_wrap=True)
        show(out, summary.outlying, WIDEST)
    is_dataset = summary.output.is_dir()
    if summary.failed:
        failed = summary.output / "failed" if is_dataset else failed_path(summary.output)
        failures(out, summary.failed, failed)
    bits = summary.bits_per_weight
    out.print(
        f"\n{layers(len(summary.quantized))} quantized, {len(summary.kept)} kept, "
        f"{len(summary.failed)} failed, in {summary.seconds:.1f} s"
        + (f"; {summary.finished_before} were finished before" if summary.finished_before else ""),
        soft_wrap=True,
    )
    out.print(
        f"{size(summary.source_bytes)} became {size(summary.output_bytes)}"
        + (f", {bits:.2f} bits per weight" if bits else "")
        + ("." if written else f"; {summary.output} takes {size(summary.file_bytes)} on disk"),
        soft_wrap=True,
    )
    ways, share = summary.fell_back
    if ways:
        out.print(fell_back(ways, share), soft_wrap=True)
    kept = _kept(summary, is_chosen=written is not None)
    if kept:
        out.print(kept, soft_wrap=True)
    decodable = sum(
        layer["search"] == "kept" or (layer.get("keep_reason") or "").startswith("decoded (")
        for layer in summary.kept
        if layer.get("role") in {None, "weight"}
    )
    if decodable:
        out.print(again(decodable), soft_wrap=True)
    for reason in explained(layer.get("keep_reason") for layer in summary.kept):
        out.print(reason, soft_wrap=True, markup=False)
    if summary.unfinished:
        out.print(finished(summary.output), soft_wrap=True)
    if retry is not None:
        out.print(f"Next: {retry} --retry-failed --scheme none", soft_wrap=True)
    elif written is None:
        out.print(f"Next: {_next(summary, model)}", soft_wrap=True)


_SHOWN = 4
_UNASKED = {"norm", "bias", "companion"}
"""Roles that nobody would quantize."""


def _kept(summary: Summary, *, is_chosen: bool) -> str | None:
    """What was kept for what it is, what that takes, and how to quantize it all the same.

    What is chosen for a runtime is kept since it does not take it otherwise.
    """
    kept = summary.kept_by_role
    kept.pop("weight", None)
    if not kept or not summary.output_bytes:
        return None
    shown = ", ".join(f"{what} {size(taken)}" for what, taken in list(kept.items())[:_SHOWN])
    text = f"Kept for what they are: {shown}" + (", ..." if len(kept) > _SHOWN else "")
    share = sum(kept.values()) / summary.output_bytes
    roles = [what for what in kept if what.isalpha() and what not in _UNASKED]
    advice = f" --include role:{roles[0]} quantizes them, too." if roles and not is_chosen else ""
    return f"{text}; {share:.0%} of the result.{advice}"


def _next(summary: Summary, model: Path) -> str:
    output = summary.output
    if not output.is_dir():
        return f"arrowquant inspect {output}"
    if summary.unfinished:
        return f"arrowquant quantize {model} -o {output}"
    if summary.failed:
        # What could not be read is read again, once the file is there; nobody wants it kept.
        unread = any(row["error_code"] == "source_unreadable" for row in summary.failed)
        keep = "" if unread else " --scheme none"
        return f"arrowquant quantize {model} -o {output} --retry-failed{keep}"
    return f"arrowquant verify {output} --against {model}"
