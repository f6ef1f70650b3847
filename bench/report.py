"""`RESULTS.md` and its chart from the figures of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from measure import Figure

Results = dict[str, Any]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)


_FIRST = ("what", "dtype", "case", "group_size", "rows", "columns", "threads")


def _table(figures: list[Figure]) -> str:
    """One table; figures of one section may have columns of their own."""
    keys = dict.fromkeys(key for figure in figures for key in figure)
    columns = [key for key in _FIRST if key in keys] + [key for key in keys if key not in _FIRST]
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(_cell(figure.get(key, "")) for key in columns) for figure in figures]
    return "\n".join(f"| {line} |" for line in lines)


SECTIONS = {
    "core": (
        "In memory",
        "The core on a layer of 4096x14336, metrics on, beside a program that reads the weights "
        "and writes as many bytes as come out, through the caches or past them (the faster one), "
        "with as many threads, taking turns: `of_limit` is the median of the ratios. `times_f32`: "
        "weights a second beside those of float32, in turns. `vectors`: layers of one short row.",
    ),
    "peers": (
        "Peers",
        "4096x4096 float32, one thread, taking turns. Only arrowquant measures the error of each "
        "layer while it is at it.",
    ),
    "files": (
        "File to file",
        "A mapped safetensors checkpoint to Parquet with two threads, page cache warm, synced; "
        "beside writing the same bytes. Peak memory is what the process holds beyond mapped files.",
    ),
    "checkpoint": (
        "A sharded checkpoint",
        "BF16 in four shards, with two threads, page cache warm: quantized into a dataset, "
        "verified against its source, exported. Peak memory is beyond mapped files.",
    ),
    "exports": (
        "For a runtime",
        "From a BF16 checkpoint to the file or directory that a runtime loads, with two threads, "
        "page cache warm, beside the runtime's own tool or beside copying the files, in turns. "
        "Starting a process is not counted for ours and mlx-lm, and is for llama-quantize.",
    ),
    "distribute": (
        "Distributed on one machine",
        "The same sharded checkpoint by one process with two threads, and by Ray with two workers "
        "of one thread; what starting Ray takes is apart. Where Ray is installed.",
    ),
    "scaling": ("Scaling", "Two threads."),
    "startup": ("Start-up", "Median of several processes."),
    "distortion": (
        "Rate and distortion",
        "Over all matrices of a set, where the scheme fits all of them; scales are float32.",
    ),
    "frontier": (
        "What a lower error costs",
        "Normal weights, one thread, taking turns: the SNR of what each tool's own decoder gives, "
        "and how far it is below what the format can do.",
    ),
    "search": (
        "What a search for scales gains",
        "SNR in dB of rounding (none) and of searching for the least squared error (mse), one "
        "thread, beside the target; the time of searches, and that over the time of rounding.",
    ),
    "defaults": (
        "Which search is the default",
        "The error of three models by searches, over that by rounding on the same text, with 95 % "
        "intervals: KL divergence of next tokens (smollm2, bytes), one less the cosine of "
        "sentence embeddings (MiniLM). Below 1 the search is better. No importance is told.",
    ),
    "signed_scales": (
        "What negative scales are worth to a model",
        "The error of three models whose symmetric integers have scales that may be negative, over "
        "that with positive ones, each with the same search: as in the table above.",
    ),
    "importance": (
        "What finding importance takes",
        "`aq.importance` of SmolLM2-135M, of 1,024 tokens of the built-in text, with two threads: "
        "seconds, and memory beyond mapped files and what a first short call has imported.",
    ),
    "divergence": (
        "What a search and importance are worth to a model",
        "KL divergence of the next tokens of SmolLM2-135M from the model before, over docstrings "
        "of the standard library, with 95 % intervals over chunks of 256 tokens.",
    ),
    "embeddings": (
        "What a model keeps",
        "Sentence embeddings of all-MiniLM-L6-v2, default keeps, beside those of the original "
        "weights: the mean cosine of a sentence's two embeddings, and the share of its ten nearest "
        "sentences that are the same. Rounding only: nothing is calibrated.",
    ),
}


QUALITY = (
    "search",
    "defaults",
    "signed_scales",
    "frontier",
    "importance",
    "divergence",
    "embeddings",
)
"""The sections of `python bench/run.py quality`."""


def tables(figures: dict[str, list[Figure]]) -> str:
    """The tables of some sections."""
    text = []
    for key, (title, note) in SECTIONS.items():
        if figures.get(key):
            text += [f"## {title}", note, _table(figures[key])]
    return "\n\n".join(text)


def write(results: Results, folder: Path) -> None:
    """Write the tables, and the chart where matplotlib is installed."""
    machine = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    text = [
        "# Results of `python bench/run.py`",
        f"Printed by that command{' with `--quick`' if results['quick'] else ''}: {machine}. "
        "Machines are noisy; ratios were measured side by side.",
    ]
    if _chart(results, folder / "results.svg"):
        text.append("![Speed beside the limit, and SNR over bits](results.svg)")
    if draw_frontier(results["figures"].get("frontier", []), folder / "search.svg"):
        text.append("![Time a weight, and error beside what is possible](search.svg)")
    text.append(tables(results["figures"]))
    (folder / "RESULTS.md").write_text("\n\n".join(text) + "\n")


_MARKS = {
    "arrowquant, none": "o",
    "arrowquant, mse": "*",
    "ggml": "s",
    "bitsandbytes": "D",
    "MLX": "^",
    "torchao": "P",
    "HQQ": "X",
}


def draw_frontier(figures: list[Figure], path: Path) -> bool:
    """Draw time against error: a colour for a format, a mark for a tool."""
    plt = _pyplot()
    if plt is None or not figures:
        return False
    drawing, axes = plt.subplots(figsize=(9, 4.6), layout="constrained")
    formats = dict.fromkeys(figure["format"] for figure in figures)
    colours = {name: plt.cm.tab20(at / len(formats)) for at, name in enumerate(formats)}
    for figure in figures:
        tool, colour = figure["tool"], colours[figure["format"]]
        place = (figure["ns_a_weight"], figure["db_below_possible"])
        axes.scatter(*place, marker=_MARKS[tool], s=90 if "mse" in tool else 45, color=colour)
    for tool, mark in _MARKS.items():
        axes.scatter([], [], marker=mark, color="0.4", label=tool)
    for name, colour in colours.items():
        axes.plot([], [], color=colour, lw=4, label=name)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("nanoseconds a weight, one thread")
    axes.set_ylabel("dB below what the format can do")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    drawing.savefig(path, metadata={"Date": None})
    plt.close(drawing)
    return True


def _pyplot() -> Any:
    """matplotlib, to draw the same SVG each time; None where it is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        return None
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "arrowquant"
    from matplotlib import pyplot as plt

    return plt


def _chart(results: Results, path: Path) -> bool:
    plt = _pyplot()
    if plt is None:
        return False
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    _bars(left, results["figures"].get("core", []))
    _curves(right, results["figures"].get("distortion", []))
    figure.savefig(path, metadata={"Date": None})
    return True


def _bars(axes: Any, figures: list[Figure]) -> None:
    """Gigabytes a second beside the limit, for the float32 cases with two threads."""
    shown = [
        figure
        for figure in figures
        if figure["what"] in {"quantize", "dequantize"}
        and figure["dtype"] == "F32"
        and figure["threads"] == 2
        and figure["group_size"] is not None
    ]
    names = [
        f"{'' if figure['what'] == 'quantize' else 'decode '}{figure['case']}, "
        + (f"group {figure['group_size']}" if figure["group_size"] > 0 else "a group a row")
        for figure in shown
    ]
    places = range(len(shown))
    axes.barh(places, [f["limit_gb_per_s"] for f in shown], color="0.85", label="read and write")
    axes.barh(places, [f["gb_per_s"] for f in shown], 0.5, color="tab:blue", label="arrowquant")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel("GB/s of float32 weights, two threads")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)


def _curves(axes: Any, figures: list[Figure]) -> None:
    """SNR over bits per weight, a line for each form of the integers and dots for other schemes."""
    figures = [figure for figure in figures if figure["weights"] in {"MiniLM", "synthetic"}]
    for weights in dict.fromkeys(figure["weights"] for figure in figures):
        color = "tab:orange" if weights == "MiniLM" else "tab:green"
        others = [figure for figure in figures if "symmetric" not in figure]
        others = [figure for figure in others if figure["weights"] == weights]
        places = [[f[axis] for f in others] for axis in ("bits_per_weight", "snr_db")]
        axes.scatter(*places, marker="x", color=color, label=f"{weights}, other schemes")
        for symmetric, style in ((False, "-"), (True, "--")):
            points = sorted(
                (figure["bits_per_weight"], figure["snr_db"])
                for figure in figures
                if figure["weights"] == weights and figure.get("symmetric") == symmetric
            )
            form = "symmetric" if symmetric else "asymmetric"
            axes.plot(
                *zip(*points, strict=True),
                style,
                marker=".",
                color=color,
                label=f"{weights}, {form}",
            )
    axes.set_xlabel("bits per weight, scales and zero points included")
    axes.set_ylabel("SNR, dB")
    axes.legend(loc="lower right")
