"""Build models that are larger than memory: memory, disk and time of the whole command.

    python benchmarks/large.py make 1b|7b FOLDER --tokenizer FOLDER
    python benchmarks/large.py build 1b-int8|7b-int4|... --model FOLDER --text FILE

`make` writes a Llama of random weights in bfloat16, a file a layer, of the sizes of Llama 3.2 1B
or Llama 2 7B and with the vocabulary of a tokenizer's folder. `build` runs `edgeprune build` on it
with `load.streamed=true` and reads memory as the kernel counts it: the process's own and what it
maps of files, at most. An interrupted build goes on when it is called again; memory and time are
then of the rest, and the line says so. A line of JSON for each build goes to
benchmarks/results/large.jsonl.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from results_file import add_result

RESULTS = Path(__file__).parent / "results" / "large.jsonl"
SIZES = {
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "tie_word_embeddings": False,
    },
}
TEXT = "text: {max_tokens: %d, batch_tokens: 1024, held_out_samples: 8}\n"
INT8 = "quantize: {activations: token, massive_activations: none, calibration_samples: 4}\n"
INT4 = (
    "quantize: {weights: int4, symmetric: false, method: %s, massive_activations: none, "
    "calibration_samples: 16}\n"
)
PRUNED = "prune: {method: %s, sparsity: 0.5, samples: 16}\n"
BUILDS = {
    "1b-int8": TEXT % 128 + INT8,
    "7b-int4": TEXT % 512 + INT4 % "rtn",
    "7b-int4-gptq": TEXT % 512 + INT4 % "gptq",
    "7b-wanda-int4": TEXT % 512 + PRUNED % "wanda" + INT4 % "rtn",
    "7b-sparsegpt-int4": TEXT % 512 + PRUNED % "sparsegpt" + INT4 % "rtn",
}
"""Recipes by name."""


def main() -> None:
    """Make a model, or build one, write its line and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("size", choices=SIZES)
    making.add_argument("folder", type=Path)
    making.add_argument("--tokenizer", type=Path, required=True)
    building = commands.add_parser("build")
    building.add_argument("name", choices=BUILDS)
    building.add_argument("--model", type=Path, required=True)
    building.add_argument("--text", type=Path, required=True)
    building.add_argument("--work", type=Path, default=Path("build") / "large")
    given = parser.parse_args()
    if given.command == "make":
        make(given.folder, SIZES[given.size], given.tokenizer)
        return
    result = build(given.name, given.model, given.text, given.work)
    add_result(RESULTS, result)
    print(json.dumps(result))


def make(folder: Path, sizes: dict[str, Any], tokenizer: Path) -> None:
    """Write a Llama of random weights, a file for each layer and one for the rest."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    folder.mkdir(parents=True, exist_ok=True)
    for file in tokenizer.glob("tokenizer*.json"):
        shutil.copyfile(file, folder / file.name)
    words = len(json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"])
    config = LlamaConfig(
        **sizes,
        vocab_size=-(-words // 64) * 64,
        max_position_embeddings=2048,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    width, inner = config.hidden_size, config.intermediate_size
    cached = width // config.num_attention_heads * config.num_key_value_heads
    layer = {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (cached, width),
        "self_attn.v_proj": (cached, width),
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    norms = ("input_layernorm", "post_attention_layernorm")

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).mul_(0.02).to(torch.bfloat16)

    places: dict[str, str] = {}

    def write(file: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(tensors, file))

    rest = {"model.embed_tokens.weight": random(config.vocab_size, width)}
    rest["model.norm.weight"] = torch.ones(width, dtype=torch.bfloat16)
    if not config.tie_word_embeddings:
        rest["lm_head.weight"] = random(config.vocab_size, width)
    write("model-rest.safetensors", rest)
    for number in range(config.num_hidden_layers):
        tensors = {f"{name}.weight": random(*shape) for name, shape in layer.items()}
        tensors |= {f"{name}.weight": torch.ones(width, dtype=torch.bfloat16) for name in norms}
        named = {f"model.layers.{number}.{name}": tensor for name, tensor in tensors.items()}
        write(f"model-{number:03d}.safetensors", named)
        print(f"layer {number + 1} of {config.num_hidden_layers}", flush=True)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def build(name: str, model: Path, text: Path, work: Path) -> dict[str, Any]:
    """Build a model by the real command, in a process of its own."""
    work.mkdir(parents=True, exist_ok=True)
    recipe, output = work / f"{name}.yaml", work / name
    recipe.write_text(f"name: {name}\nload: {{streamed: true}}\n{BUILDS[name]}")
    resumed = (output / "stages").is_dir() and any((output / "stages").glob("*-*"))
    options = ["--model", model, "--data", text, "--output", output]
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeprune", "build", recipe, *map(str, options)]
    )
    peak = disk = 0
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        disk = max(disk, bytes_below(output))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(process.returncode)
    usage = _children_peak()
    stages = json.loads((output / "bundle" / "edgeprune.json").read_text())["stages"]
    graph = output / "bundle" / "onnx"
    return {
        "name": name,
        "resumed": resumed,
        "seconds": round(time.monotonic() - started),
        "peak_megabytes": round(max(peak, usage) / 1e6),
        "model_megabytes": round(bytes_below(model) / 1e6),
        "disk_megabytes": round(disk / 1e6),
        "bundle_megabytes": round(bytes_below(graph) / 1e6),
        "stages": {each["name"]: [each["seconds"], each["peak_megabytes"]] for each in stages},
        "cores": len(os.sched_getaffinity(0)),
    }


def memory_of(process: int) -> int:
    """Bytes of memory that a process has now, its own and what it maps of files."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):  # it has ended
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _children_peak() -> int:
    """The largest resident memory that an ended child had, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def bytes_below(folder: Path) -> int:
    """Bytes of the files below a folder, which may come and go meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).stat().st_size
            except OSError:
                continue
    return total


if __name__ == "__main__":
    main()
