"""Resident memory after many texts: what 5,000 leave behind beside what 500 do.

    python benchmarks/memory.py [--texts N]

An encoder of random weights (two layers of width 64, four heads, float32) embeds 500 texts of 1 to
512 tokens in batches of 64 in one call, then N others, once as edgeprune does it and once with the
runtime's memory left in its arena, each in a process of its own. A line of JSON each goes into
results/memory.jsonl: megabytes at the start and after each call, and the call's CPU seconds.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from results_file import add_result, read_results

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "memory.jsonl"
MODEL = ROOT / "build" / "memory-model"
WORDS = [f"w{number:03d}" for number in range(996)]
WAYS = ("given back", "kept")
FIRST, LONGEST, BATCH = 500, 512, 64


def make_model(folder: Path) -> Path:
    """The encoder with a tokenizer of words; as it is where it is there."""
    if not (folder / "tokenizer.json").exists():
        import torch
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import BertConfig, BertModel

        torch.manual_seed(0)
        special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
        config = BertConfig(
            vocab_size=len(special) + len(WORDS),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=256,
        )
        BertModel(config).save_pretrained(folder)
        names = {word: index for index, word in enumerate([*special, *WORDS])}
        tokenizer = Tokenizer(models.WordLevel(names, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": LONGEST}
        settings |= {f"{name.strip('[]').lower()}_token": name for name in special}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def embed(bundle: Path, way: str, texts: int) -> dict[str, Any]:
    """Embed in this process, which has done nothing else."""
    import psutil

    from edgeprune import runtime
    from edgeprune.runtime import batches

    if way == "kept":
        batches._giving_back = lambda: None  # type: ignore[assignment,return-value]
    draw, process = random.Random(0), psutil.Process()
    embedder: Any = runtime.load(bundle, threads=1)
    found: dict[str, Any] = {"name": way, "start": process.memory_info().rss / 1e6}
    for count in (FIRST, texts):
        lengths = [draw.randint(1, LONGEST) for _ in range(count)]
        # The tokenizer adds two.
        given = [" ".join(draw.choices(WORDS, k=max(0, length - 2))) for length in lengths]
        begun = time.process_time()
        embedder.embed(given, batch_size=BATCH)
        seconds = time.process_time() - begun
        found[str(count)] = {"megabytes": process.memory_info().rss / 1e6, "seconds": seconds}
    return found


def table(results: Mapping[str, dict[str, Any]]) -> str:
    """The page's table."""
    lines = ["| arena | MB at the start | after 500 texts | after as many more | CPU seconds |"]
    lines.append("|---|---|---|---|---|")
    for way in filter(results.get, WAYS):
        start, first, more = (results[way][key] for key in list(results[way])[1:4])
        texts, middle = list(results[way])[3], first["megabytes"]
        change = more["megabytes"] / middle - 1
        cells = (f"{start:.0f}", f"{middle:.0f}", f"{more['megabytes']:.0f} ({change:+.0%})")
        lines.append(f"| {way} | {' | '.join(cells)} | {more['seconds']:.1f} for {int(texts):,} |")
    return "\n".join(lines)


def main() -> None:
    """Measure each way that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=5000, help="of the second call")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "BUNDLE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(embed(Path(given.one[1]), given.one[0], given.texts)))
        return
    from edgeprune.export.opened import open_model

    with open_model(make_model(MODEL)) as bundle:
        for way in WAYS:
            if way not in read_results(RESULTS):
                command = [sys.executable, __file__, "--texts", str(given.texts)]
                command += ["--one", way, str(bundle.folder)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                add_result(RESULTS, json.loads(done.stdout))
                print(done.stdout)


if __name__ == "__main__":
    main()
