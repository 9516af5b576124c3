"""The comparison's tables, and which goals were reached."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from edgeprune.base.bootstrap import bootstrap
from oneshot.design import CHANNELS, cells

Rows = Mapping[str, Any]
"""A cell's name -> its line of the results."""

_COLUMNS = {
    "SmolLM2": {
        "perplexity": "{:.2f}",
        "kl_nats_per_token": "{:.4f}",
        "same_top_token": "{:.1f} %",
    },
    "MiniLM": {"spearman": "{:.2f}", "cosine": "{:.4f}"},
}
_COSTS = {"threads": "{}", "seconds": "{:.0f}", "peak_megabytes": "{:,}"}
_MINUTES = {"wanda": 3, "sparsegpt": 8, "thanos": 15}
_MOST_MEMORY = 4e9
_SEARCH_MINUTES = 30


def report(done: Rows) -> str:
    """Goals and tables as Markdown."""
    return "\n".join(
        [
            "# The one-shot methods side by side\n",
            "Made by `benchmarks/pruning.py`, which says what each figure is.\n",
            *goals(done),
            "",
            tables(done),
        ]
    )


def tables(done: Rows) -> str:
    """The cells as Markdown, a table a model."""
    lines = []
    for subject, quality in _COLUMNS.items():
        columns = {**quality, **_COSTS}
        names = [cell.name for cell in cells() if cell.subject == subject and cell.name in done]
        if not names:
            continue
        heads = ["cell", *(key.replace("_", " ") for key in columns)]
        lines += [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        for name in names:
            shown = [form.format(done[name][key]) for key, form in columns.items()]
            lines.append(f"| {' | '.join([name, *shown])} |")
        lines.append("")
    return "\n".join(lines)


def goals(done: Rows) -> Iterator[str]:
    """A table of what was to be reached; a goal whose cells are not there is not run yet."""
    yield "| goal, on SmolLM2 | found | |\n|---|---|---|"
    for goal, judge in _goals().items():
        try:
            found, reached = judge(done)
        except KeyError:
            yield f"| {goal} | | not run yet |"
            continue
        yield f"| {goal} | {found} | {'reached' if reached else '**missed**'} |"


Judge = Callable[[Rows], tuple[str, bool]]


def _goals() -> dict[str, Judge]:
    def below(better: str, worse: str) -> Judge:
        def judge(done: Rows) -> tuple[str, bool]:
            ours, other = _perplexity(done, better), _perplexity(done, worse)
            return f"{ours:.2f} and {other:.2f}", ours < other

        return judge

    return {
        "SparseGPT's perplexity below Wanda's at 50 %": below("sparsegpt", "wanda"),
        "Thanos' below Wanda's": below("thanos", "wanda"),
        "Wanda's below magnitude's": below("wanda", "magnitude"),
        "Thanos' at most 1.02 of SparseGPT's": _thanos,
        "20 % of channels: the compensated cut's increase at most 0.75 of the other's": _channels,
        **{f"{m} within {minutes} minutes and 4 GB": _cost(m) for m, minutes in _MINUTES.items()},
        f"EvoPress' KL on unseen text below uniform's, within {_SEARCH_MINUTES} minutes": _evopress,
    }


def _row(done: Rows, name: str) -> Any:
    return done[f"SmolLM2, {name}"]


def _perplexity(done: Rows, method: str) -> float:
    return float(_row(done, f"{method}, 50 % weights")["perplexity"])


def _thanos(done: Rows) -> tuple[str, bool]:
    ratio = _perplexity(done, "thanos") / _perplexity(done, "sparsegpt")
    return f"{ratio:.3f}", ratio <= 1.02


def _channels(done: Rows) -> tuple[str, bool]:
    base = _row(done, "original")["perplexity"]
    plain, fitted = (_row(done, name)["perplexity"] - base for name in CHANNELS)
    found = f"+{fitted:.2f} and +{plain:.2f}, {fitted / plain:.2f} of it"
    return found, fitted <= 0.75 * plain


def _cost(method: str) -> Judge:
    def judge(done: Rows) -> tuple[str, bool]:
        row = _row(done, f"{method}, 50 % weights")
        minutes, memory = row["seconds"] / 60, row["peak_megabytes"] * 1e6
        found = f"{minutes:.1f} minutes, {memory / 1e9:.1f} GB"
        return found, minutes <= _MINUTES[method] and memory <= _MOST_MEMORY

    return judge


def _evopress(done: Rows) -> tuple[str, bool]:
    """Paired by windows of the validation text, with a bootstrap interval over them."""
    row = _row(done, "wanda, 50 %, evopress")
    uniform = np.array(_row(done, "wanda, 50 % weights")["by_window"]["kl"])
    gain = np.array(row["by_window"]["kl"]) - uniform
    every = np.arange(len(gain))
    low, high = bootstrap(lambda chosen: {"kl": float(gain[chosen].mean())}, every)["kl"]
    minutes = row["seconds"] / 60
    found = f"{gain.mean():+.4f} ({low:+.4f} to {high:+.4f}) nats, {minutes:.0f} minutes"
    return found, high < 0 and minutes <= _SEARCH_MINUTES
