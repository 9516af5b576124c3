"""The Pi's install and service on ARM, under QEMU: `python benchmarks/qemu/device.py BUNDLE`.

    apt-get install qemu-user-static debootstrap

In a folder with Debian 12 for ARM (build/qemu/device), as on a device: deploy's install.sh installs
a wheel with what it needs from the package index, twice; then `edgeprune serve` answers requests
over loopback, wrong ones too, and stops when told. The answers are compared with those of this
machine's runtime. The folder's programs run through the kernel's binfmt_misc in a user namespace of
their own (Linux 6.7), so that nothing of this machine changes. Some minutes.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from setup import CPU, FOLDER, ROOT, unpack_debian

from edgeprune import runtime
from edgeprune.runtime.embed import Embedder

DEVICE = FOLDER / "device"
DEPLOY = ROOT / "deploy" / "raspberry-pi"
TEXTS = ["A sentence to embed", "Another one, a little longer than the first"]
CLOSE = 0.95
"""Cosine of two processors' answers: the roundings of dynamic INT8 activations flip."""
_PACKAGES = ("python3", "python3-venv", "ca-certificates", "openssl")
_QEMU = "/usr/bin/qemu-aarch64-static"
# A 64-bit ARM program's first bytes, and which of their bits count (elf.h).
_ARM = r"\x7fELF\x02\x01\x01" + r"\x00" * 9 + r"\x02\x00\xb7\x00"
_BITS = r"\xff" * 7 + r"\x00" + r"\xff" * 8 + r"\xfe\xff\xff\xff"
# $1 is the folder. Its /proc is the namespace's, but for what ONNX Runtime reads of the processor.
_ENTER = f"""
set -e
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
echo ':arm:M::{_ARM}:{_BITS}:{_QEMU}:F' > /proc/sys/fs/binfmt_misc/register
mkdir -p "$1/tmp"
cp "$1/proc/cpuinfo" "$1/tmp/cpuinfo"
mount -t proc none "$1/proc"
mount --bind "$1/tmp/cpuinfo" "$1/proc/cpuinfo"
certificates=/etc/ssl/certs/ca-certificates.crt
for file in /dev/null /dev/urandom /etc/resolv.conf /etc/hosts $certificates; do
    mkdir -p "$1$(dirname $file)"
    touch "$1$file"
    mount --bind $file "$1$file"
done
folder=$1
shift
chroot "$folder" "$@"
exit $?
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="one that embeds")
    parser.add_argument("--wheel", type=Path, help="default: a wheel of this checkout, made now")
    given = parser.parse_args()
    if missing := [tool for tool in ("debootstrap", _QEMU, "unshare") if not shutil.which(tool)]:
        parser.error(f"missing here: {', '.join(missing)}")
    if not DEVICE.exists():
        print("Making the device's folder ...", flush=True)
        unpack_debian(DEVICE, _PACKAGES)
    home = DEVICE / "root"
    for old in home.glob("*.whl"):
        old.unlink()
    shutil.copy(given.wheel or make_wheel(), home)
    shutil.copy(DEPLOY / "install.sh", home)
    shutil.copytree(given.bundle, home / "bundle", dirs_exist_ok=True)
    wheel = next(home.glob("*.whl")).name
    for turn in ("first", "second"):
        print(f"install.sh, the {turn} time:", flush=True)
        subprocess.run(on_device("sh", "-c", f"cd /root && ./install.sh ./{wheel}"), check=True)
    installed = run("/opt/edgeprune/bin/python", "-m", "pip", "list", "--format=freeze")
    assert not re.search(r"^(torch|transformers|optimum)==", installed, re.M), installed
    assert run("/opt/edgeprune/bin/python", "-c", "import platform as p; print(p.machine())") == (
        "aarch64\n"
    )
    check_service(given.bundle)
    print("The install and the service work on ARM.")


def make_wheel() -> Path:
    """A wheel of this checkout without operators, which are the processor's."""
    folder = FOLDER / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT]
    subprocess.run(command, check=True, env={**os.environ, "EDGEPRUNE_BUILD_KERNELS": "0"})
    return next(folder.glob("*.whl"))


def on_device(*command: str) -> list[str]:
    """The command that runs an ARM program in the folder, as its root."""
    own = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root", "QEMU_CPU": CPU}
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    settings = [f"{name}={value}" for name, value in {**pip, **own}.items()]
    enter = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child"]
    inside = ["/usr/bin/env", "-i", *settings, *command]
    return [*enter, "sh", "-c", _ENTER, "enter", str(DEVICE), *inside]


def run(*command: str) -> str:
    return subprocess.run(on_device(*command), check=True, capture_output=True, text=True).stdout


def check_service(bundle: Path) -> None:
    """Real requests to the service in the folder, over this machine's loopback."""
    serve = ["/opt/edgeprune/bin/edgeprune", "serve", "/root/bundle", "--port", "0"]
    small = ["--threads", "1", "--max-batch", "2", "--max-batch-tokens", "64"]
    process = subprocess.Popen(on_device(*serve, *small), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        found = next(match for line in lines if (match := re.search(r"(http://\S+)/embed", line)))
        address = found[1]
        status, answer = ask(f"{address}/embed", json.dumps({"texts": TEXTS}).encode())
        assert status == 200, answer
        model = runtime.load(bundle, threads=1)
        assert isinstance(model, Embedder)
        native = model.embed(TEXTS, batch_size=1)
        answered = np.asarray(answer["embeddings"], np.float32)
        norms = np.linalg.norm(native, axis=1) * np.linalg.norm(answered, axis=1)
        cosines = (native * answered).sum(axis=1) / norms
        print(f"cosines to this machine's answers: {cosines.round(5).tolist()}")
        assert cosines.min() > CLOSE
        assert ask(f"{address}/embed", b"{")[0] == 400
        assert ask(f"{address}/embed", b" " * 600_000)[0] == 413
        assert ask(f"{address}/classify", b"{}")[0] == 404
        health = ask(f"{address}/health")[1]
        print(f"health: {health}")
        assert health["status"] == "ok"
        # unshare hands no signal on, and QEMU never ends as a namespace's first process: that is
        # a shell, and the service its child.
        shell = psutil.Process(process.pid).children()[0]
        shell.children()[0].send_signal(signal.SIGTERM)
        code = process.wait(60)
        assert code == 128 + signal.SIGTERM, code
        print("It stopped at SIGTERM.")
    finally:
        process.kill()
        process.wait()


def ask(url: str, body: bytes | None = None) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    try:
        asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


if __name__ == "__main__":
    main()
