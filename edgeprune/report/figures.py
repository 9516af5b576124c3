"""What a build's numbers say, as rows of text for the terminal and the page alike."""

from dataclasses import dataclass
from typing import Any

_WORK = {"encoder": "latency", "prompt": "prompt", "decode": "a token of decoding"}


@dataclass(frozen=True)
class Row:
    """One line of the comparison: what, the original's figure, the result's, the change."""

    what: str
    original: str
    result: str
    change: str


def comparison(report: dict[str, Any]) -> list[Row]:
    """Original beside result: speed with intervals, bytes, memory, quality."""
    measured = stage(report, "measure")
    speed = measured["speed"]
    mine, its = speed["candidate"], speed["baseline"]
    rows = []
    for work, times in speed["measures"].items():
        ratio = times["ratio"]
        interval = f"{ratio['value']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})"
        for figure in ("median_ms", "p95_ms"):
            name = f"{_WORK.get(work, work)}, {figure.removesuffix('_ms')}"
            change = interval if figure == "median_ms" else ""
            rows.append(
                Row(
                    name,
                    f"{times['baseline'][figure]:.2f} ms",
                    f"{times['candidate'][figure]:.2f} ms",
                    change,
                )
            )
        for rate in ("texts_per_second", "tokens_per_second"):
            if rate in times["candidate"]:
                unit = rate.replace("_per_second", "/s")
                rows.append(
                    Row(
                        "texts" if work == "encoder" else f"{_WORK.get(work, work)}, tokens",
                        f"{times['baseline'][rate]:,.0f} {unit}",
                        f"{times['candidate'][rate]:,.0f} {unit}",
                        "",
                    )
                )
    rows.append(_smaller("graph and data", its["model_bytes"], mine["model_bytes"]))
    rows.append(_smaller("peak memory", its["peak_memory_bytes"], mine["peak_memory_bytes"]))
    for quality in measured["quality"]:
        rows += _quality_rows(quality)
    return rows


def stage(report: dict[str, Any], name: str) -> dict[str, Any]:
    """What a stage did; empty where it did not run."""
    return next((each for each in report["stages"] if each["name"] == name), {})


def conditions(report: dict[str, Any]) -> str:
    """Under what the speed was measured, in a sentence."""
    speed = stage(report, "measure")["speed"]
    settings, machine = speed["settings"], speed["machine"]
    return (
        f"{settings['tokens']} tokens, batch {settings['batch']}, {settings['threads']} thread(s), "
        f"default session options, interleaved in one run on {machine['processor']}; ratios with "
        f"95 % intervals; the reference is the original's plain float32 ONNX."
    )


def _smaller(what: str, its: float, mine: float) -> Row:
    return Row(what, f"{its / 1e6:.1f} MB", f"{mine / 1e6:.1f} MB", f"{its / mine:.1f}x smaller")


def _quality_rows(quality: dict[str, Any]) -> list[Row]:
    rows = []
    data = quality["data"].rsplit("/", 1)[-1]
    for key, value in quality["values"].items():
        name = f"{key.replace('_', ' ')} ({data})"
        if "original" in quality:
            before = quality["original"][key]
            rows.append(Row(name, f"{before:.4g}", f"{value:.4g}", f"{value - before:+.3g}"))
        else:
            rows.append(Row(f"{name}, to the original", "", f"{value:.4g}", ""))
    return rows
