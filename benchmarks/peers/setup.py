"""Make the environment of a peer: `python benchmarks/peers/setup.py NAME`, or `--list`.

Each gets a virtual environment of its own, build/peers/NAME, with the versions below and with this
checkout on its path, so that its script finds the protocol
(edgeprune/measure/bench/protocol.py). The script then runs as a contestant, beside a bundle:

    edgeprune bench BUNDLE --against "command:build/peers/openvino/bin/python \
        benchmarks/peers/run_openvino.py ORIGINAL --int8"

| peer | script | runs |
|---|---|---|
| onnxruntime | run_onnxruntime.py FOLDER [--int8] | an ONNX folder, plain or by quantize_dynamic |
| deepsparse | run_deepsparse.py FOLDER | an encoder's ONNX folder of one fixed shape, opset 13 |
| openvino | run_openvino.py FOLDER [--int8] | an encoder's ONNX folder, float32 or NNCF's INT8 |
| ctranslate2 | run_ctranslate2.py FOLDER [--int8] | an encoder's Hugging Face folder |
| llama.cpp | run_llama_cpp.py FILE.gguf [--quantize q4_0] | a decoder's GGUF file |
| onnxruntime-genai | run_genai.py FOLDER [--precision int4] | a decoder's Hugging Face folder |

Conversions are kept in build/peers/models. llama.cpp has no wheel and compiles, which takes about
12 minutes on one core.
"""

import argparse
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "peers"
# A looser range of torch may fetch gigabytes of graphics drivers.
_TORCH = "torch==2.13.0"
PACKAGES = {
    "onnxruntime": ["onnxruntime==1.31.1", "onnx==1.23.2", "sympy"],
    # Its last release that runs; discontinued, and licensed for comparisons, not for use.
    "deepsparse": ["deepsparse==1.8.0", "onnxruntime==1.17.3", "sympy"],
    "openvino": ["openvino==2026.4.1", "nncf==3.4.0", "onnx==1.23.2"],
    "ctranslate2": ["ctranslate2==4.8.5", "transformers==4.57.6", _TORCH],
    "llama.cpp": ["llama-cpp-python==0.3.36"],
    "onnxruntime-genai": [
        "onnxruntime-genai==0.18.0",
        "onnxruntime==1.31.1",
        "onnx==1.23.2",
        "onnx-ir==1.1.0",
        "transformers==5.23.0",
        _TORCH,
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", choices=PACKAGES)
    parser.add_argument("--list", action="store_true", help="name the peers")
    given = parser.parse_args()
    if given.list or not given.name:
        print("\n".join(PACKAGES))
        return
    python = make(given.name)
    print(f"{given.name} runs with {python.relative_to(ROOT)}")


def make(name: str) -> Path:
    """Make or complete a peer's environment; returns its Python."""
    folder = FOLDER / name
    if not (folder / "pyvenv.cfg").exists():
        venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    # llama.cpp compiles for the machine's own instructions, on two cores.
    environment = os.environ | {"CMAKE_BUILD_PARALLEL_LEVEL": "2"}
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *PACKAGES[name]], check=True, env=environment
    )
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    (Path(packages) / "edgeprune-checkout.pth").write_text(f"{ROOT}\n")
    return python


if __name__ == "__main__":
    main()
