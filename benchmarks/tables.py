"""Markdown tables of the committed results, as the README and the model cards quote them.

``python -m srtrt.benchmarks.tables FILE.json...`` prints them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def table(report: dict[str, Any]) -> str:
    """The table of one result file, whatever its benchmark.

    Raises:
        KeyError: if the report is of another kind.
    """
    return _TABLES[report["benchmark"]](report)


def _latency(report: dict[str, Any]) -> str:
    rows = report["engines"]
    if any("psnr_db" in row for row in rows.values()):
        return _engines(rows)
    return _markdown(
        ["engine", "seconds", "times faster"],
        (
            [name, f"{row['seconds_per_frame']:.3f}", f"{row['times_faster']:.1f}"]
            for name, row in rows.items()
        ),
    )


def _engines(rows: dict[str, Any]) -> str:
    """Speed of engines beside what they compute; what was not measured is left open."""
    head = ["engine", "network, ms", "copies, ms", "frame, ms", "times faster", "frames/s"]

    def cells(name: str, row: dict[str, Any]) -> list[str]:
        alone = "network_ms" in row
        copies = row["copy_in_ms"] + row["copy_out_ms"] if alone else 0.0
        return [
            name,
            f"{row['network_ms']:.2f}" if alone else "-",
            f"{copies:.2f}" if alone else "-",
            f"{1000 * row['seconds_per_frame']:.2f}",
            f"{row['times_faster']:.2f}",
            f"{row['frames_per_second']:.1f}" if "frames_per_second" in row else "-",
            _decibels(row["psnr_db"]),
            str(row["max_abs"]),
            "passed" if row["passes_gate"] else "missed",
        ]

    body = (cells(name, row) for name, row in rows.items())
    return _markdown([*head, "parity, dB", "max error", "gate"], body)


def _decibels(psnr: float | None) -> str:
    """Parity; none is what has no error."""
    return "equal" if psnr is None else f"{psnr:.1f}"


def _quality(report: dict[str, Any]) -> str:
    """A column for each method where there is PSNR and SSIM alone, else a row for each."""
    sets = {
        name: {method: f for method, f in figures.items() if method != "pictures"}
        for name, figures in report["sets"].items()
    }
    rows = [(name, method, f) for name, figures in sets.items() for method, f in figures.items()]
    columns = [c for c in _QUALITY if any(c[1] in f for _, _, f in rows)]
    if len(columns) == 2:
        methods = list(next(iter(sets.values())))
        cells = ([name, *(_figures(f[m]) for m in methods)] for name, f in sets.items())
        return _markdown(["set", *methods], cells)
    body = ([name, method, *(_shown(f, *c[1:]) for c in columns)] for name, method, f in rows)
    return _markdown(["set", "model", *(c[0] for c in columns)], body)


_QUALITY = (
    ("PSNR, dB", "psnr_db", 2),
    ("SSIM", "ssim", 4),
    ("LPIPS", "lpips", 4),
    ("DISTS", "dists", 4),
    ("near Nyquist", "near_nyquist", 3),
    ("above truth", "near_nyquist_excess", 3),
    ("bias R", "bias_red", 2),
    ("bias G", "bias_green", 2),
    ("bias B", "bias_blue", 2),
)
"""Head, key and decimals of each figure."""


def _shown(figures: dict[str, float], key: str, digits: int) -> str:
    return f"{round(figures[key], digits) + 0.0:.{digits}f}" if key in figures else "-"


def _figures(figures: dict[str, float]) -> str:
    """PSNR in dB / SSIM, and VMAF / VMAF-NEG where they were measured."""
    texts = [f"{figures['psnr_db']:.2f}", f"{figures['ssim']:.4f}"]
    texts += [f"{figures[key]:.1f}" for key in ("vmaf", "vmaf_neg") if key in figures]
    return " / ".join(texts)


def _compressed(report: dict[str, Any]) -> str:
    sources = report["sources"]
    methods = list(next(iter(sources.values()))["compressed"])
    labels = {"uncompressed": "uncompressed", "compressed": f"x264 crf {report['codec']['crf']}"}
    rows = (
        [
            f"{name}, {label}",
            f"{source['bits_per_pixel']:.3f}" if kind == "compressed" else "-",
            *(_figures(source[kind][method]) for method in methods),
        ]
        for name, source in sources.items()
        for kind, label in labels.items()
    )
    return _markdown(["source", "bits per LR pixel", *methods], rows)


def _rates(report: dict[str, Any]) -> str:
    """Means over the clips, by encoder and quality factor."""
    groups: dict[tuple[str | None, int | None], list[dict[str, Any]]] = {}
    for row in report["rows"]:
        groups.setdefault((row["encoder"], row["crf"]), []).append(row)
    models = report["models"]

    def mean(rows: list[dict[str, Any]], model: str, key: str) -> float:
        return sum(float(row[model][key]) for row in rows) / len(rows)

    def cells(encoder: str | None, crf: int | None, rows: list[dict[str, Any]]) -> list[str]:
        rates = [row["bits_per_pixel"] for row in rows if row["bits_per_pixel"] is not None]
        rate = f"{min(rates):.3f} to {max(rates):.3f}" if rates else "-"
        name = "not encoded" if encoder is None else f"{encoder} crf {crf}"
        figures = (f"{mean(rows, m, 'psnr_db'):.2f} / {mean(rows, m, 'vmaf'):.1f}" for m in models)
        return [name, rate, *figures]

    head = ["source", "bits per pixel and frame", *(f"{m}: PSNR / VMAF" for m in models)]
    return _markdown(head, [cells(*key, rows) for key, rows in groups.items()])


def _runs(report: dict[str, Any]) -> str:
    ours, reported = (
        _markdown(
            ["Method", "Data", "Epoch", "PSNR"],
            (
                [row["method"], row["data"], f"{round(row['epoch'], 1):g}", f"{row['psnr_db']:.2f}"]
                for row in report[key]
            ),
        )
        for key in ("rows", "reported")
    )
    return f"{ours}\n\nThe original report, for comparison:\n\n{reported}"


def _parity(report: dict[str, Any]) -> str:
    rows = (
        [
            name,
            _decibels(row["psnr_db"]),
            str(row["max_abs"]),
            f"{100 * row['equal']:.2f}",
            f"{row['db_lost'] + 0.0:.3f}" if "db_lost" in row else "-",
        ]
        for name, row in report["engines"].items()
    )
    return _markdown(["engine", "parity, dB", "max error", "equal, %", "dB lost"], rows)


def _int8(report: dict[str, Any]) -> str:
    """Worst loss over the engines; speed on OpenVINO against its bf16, else its fp32, and fp32."""
    models = report["models"]
    first = next(iter(models.values()))
    head = [f"{name}: PSNR fp32, dB lost" for name in first["sets"]]
    head += [f"{size}: times {report['reference']}, fp32" for size in first["speed"]]
    rows = []
    for name, row in models.items():
        cells = [name, f"{row['bytes']['int8'] / 1e6:.2f}"]
        for engines in row["sets"].values():
            lost = max(f["db_lost"] for k, f in engines.items() if k.endswith("int8"))
            cells.append(f"{engines['onnxruntime-fp32']['psnr_db']:.2f}, {lost:.3f}")
        for engines in row["speed"].values():
            fast = engines["openvino-int8"]["times_faster"]
            cells.append(f"{fast:.2f}, {fast / engines['openvino-fp32']['times_faster']:.1f}")
        rows.append(cells)
    return _markdown(["model", "MB", *head], rows)


def _instruction_sets(report: dict[str, Any]) -> str:
    """What int8 loses by model and engine; sets that were not measured there are left open."""
    models = report["models"]
    measured = [row for runs in models.values() for row in runs.values()]
    sets = list(dict.fromkeys(name for row in measured for name in row["sets"]))
    rows = []
    for name, runs in models.items():
        for run, row in runs.items():
            engine, kind = run.split()
            lost = [f"{row['sets'][s]['db_lost']:.3f}" if s in row["sets"] else "-" for s in sets]
            worst = min(figures["psnr_db"] for figures in row["sets"].values())
            rows.append([name, engine, kind, *lost, f"{worst:.1f}", f"{row['times_fp32']:.1f}"])
    head = ["model", "engine", "instruction set", *(f"{s}: dB lost" for s in sets)]
    return _markdown([*head, "parity, dB", "times fp32"], rows)


def _precisions(report: dict[str, Any]) -> str:
    def shown(row: dict[str, Any], key: str, scale: float, digits: int) -> str:
        return f"{row[key] * scale + 0.0:.{digits}f}" if row.get(key) is not None else "-"

    rows = (
        [
            name,
            shown(row, "psnr_db", 1, 1),
            shown(row, "max_abs", 1, 0),
            shown(row, "db_lost", 1, 3),
            shown(row, "bytes", 1e-6, 2),
            shown(row, "build_seconds", 1, 2),
        ]
        for name, row in report["engines"].items()
    )
    return _markdown(["engine", "parity, dB", "max error", "dB lost", "MB", "build, s"], rows)


def _training(report: dict[str, Any]) -> str:
    rows = (
        [name, f"{row['steps_per_second']:.2f}", f"{row['seconds_per_step']:.3f}"]
        for name, row in report["loops"].items()
    )
    return _markdown(["loop", "steps/s", "seconds"], rows)


def _profile(report: dict[str, Any]) -> str:
    rows = (
        [name, f"{row['ms']:.3f}", f"{row['times_faster']:.2f}", f"{row['max_difference']:.2f}"]
        if "ms" in row
        else [name, "-", "-", "-"]
        for name, row in report["variants"].items()
    )
    return _markdown(["way", "network, ms", "times faster", "max difference"], rows)


def _throughput(report: dict[str, Any]) -> str:
    """Frames in flight of PyTorch at each size, against the matrix product of the same run."""
    kept = ("copy_ms", "matmul_bound_ms", "timeline")
    rows = (
        [
            size,
            name,
            f"{figures['frames_per_second']:.1f}",
            f"{figures['ms_per_frame']:.2f}",
            f"{row['matmul_bound_ms']:.2f}",
            f"{100 * figures['share_of_matmul']:.0f}",
        ]
        for size, row in report["sizes"].items()
        for name, figures in row.items()
        if name not in kept
    )
    return _markdown(["frame", "way", "frames/s", "ms", "bound, ms", "of matmul, %"], rows)


def _fused(report: dict[str, Any]) -> str:
    grids = report["grids"]
    keys = list(next(iter(grids.values())))
    head = ["phases on the", *(key.replace("_", " ") for key in keys)]
    return _markdown(
        head, ([name, *(str(row[key]) for key in keys)] for name, row in grids.items())
    )


def _on_gpu(report: dict[str, Any]) -> str:
    rows = (
        [part["device"], part["part"], part["state"], f"{part['seconds']:.0f}", _cell(part)]
        for part in report["parts"]
    )
    return _markdown(["device", "part", "state", "seconds", "why"], rows)


def _cell(part: dict[str, Any]) -> str:
    """Why a part did not run well, on one line that no character ends early."""
    return " ".join((part["reason"] or "").split()).replace("|", "\\|")


def _video(report: dict[str, Any]) -> str:
    """Seconds of each stage of one run of upscale-video."""
    stages = report["stages"]
    head = ["size", "frames", "frames/s", *(f"{s['name']}, s" for s in stages), "bottleneck"]
    row = [
        f"{report['width']}x{report['height']}",
        str(report["frames"]),
        f"{report['frames_per_second']:.1f}",
        *(f"{stage['busy_seconds']:.2f}" for stage in stages),
        report["bottleneck"],
    ]
    return _markdown(head, [row])


def _fuzz(report: dict[str, Any]) -> str:
    """How damaged files of each kind ended; a fault is whatever is no clean end."""
    faults = dict.fromkeys(report["kinds"], 0)
    for fault in report["faults"]:
        faults[fault["kind"]] += fault["times"]
    kept = ("cases", "refused", "done")
    rows = (
        [kind, *(str(counts.get(key, 0)) for key in kept), str(faults[kind])]
        for kind, counts in report["kinds"].items()
    )
    return _markdown(["kind of file", "cases", "refused", "used", "faults"], rows)


def _side_by_side(report: dict[str, Any]) -> str:
    cells = (
        [
            row["variant"],
            row["measure"],
            f"{row['mean']:.4f}",
            f"{row['difference']:+.4f} ± {row['standard_error']:.4f}"
            if "difference" in row
            else "",
            ", ".join(f"{each:+.4f}" for each in row.get("by_seed", ())),
        ]
        for row in report["rows"]
    )
    return _markdown(["variant", "measure", "mean", "difference", "by seed"], cells)


def _markdown(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


_TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "latency": _latency,
    "quality": _quality,
    "parity": _parity,
    "precisions": _precisions,
    "compressed": _compressed,
    "rates": _rates,
    "runs": _runs,
    "training": _training,
    "int8": _int8,
    "instruction-sets": _instruction_sets,
    "profile": _profile,
    "throughput": _throughput,
    "fused": _fused,
    "on-gpu": _on_gpu,
    "video": _video,
    "fuzz": _fuzz,
    "side-by-side": _side_by_side,
}


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(table(json.loads(Path(argument).read_text(encoding="utf-8"))), end="\n\n")
