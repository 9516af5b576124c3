"""Carry out the Dockerfile's steps where no engine runs, as root:

    apt-get install debootstrap
    python tests/deploy/rehearse_image.py BUNDLE

Its base image is what debootstrap makes of the same release of Debian, without documentation. RUN
and COPY are carried out there by chroot; then the entry point runs as the image's user, in a folder
mounted read-only, with the bundle; its health check is run, a request is compared with the
runtime's answer, and SIGTERM must end it with exit code 0, as the namespace's first process.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeprune import runtime

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "image"
TEXTS = ["A sentence to embed", "Another one"]
# $1 is the folder, $2 "ro" or "rw"; the rest is run in it.
_ENTER = """
set -e
folder=$1; access=$2; shift 2
mount --bind "$folder" "$folder"
mount -t proc none "$folder/proc"
mount -t tmpfs none "$folder/dev"
for file in /dev/null /dev/urandom; do touch "$folder$file"; mount --bind $file "$folder$file"; done
for file in /etc/resolv.conf /etc/hosts; do
    [ -e "$folder$file" ] || touch "$folder$file"
    mount --bind $file "$folder$file"
done
if [ "$access" = ro ]; then
    mount --bind "$BUNDLE" "$folder/bundle"
    mount -o remount,bind,ro "$folder"
fi
exec "$@"
"""


@dataclass
class Image:
    """What the Dockerfile has made of the folder so far."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    work: str = "/"
    entry: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def command(self, *words: str, access: str = "rw") -> list[str]:
        own = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        outer = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        settings = {**outer, **own, **self.settings, **self.arguments}
        change = ["chroot", f"--userspec={self.user}", str(self.folder)]
        inside = ["/usr/bin/env", "-i", "-C", self.work, *(f"{n}={v}" for n, v in settings.items())]
        spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        script = ["sh", "-c", _ENTER, "enter", str(self.folder), access]
        return [*spaces, *script, *change, *inside, *words]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="one that embeds")
    parser.add_argument("--base", type=Path, help="a folder that debootstrap made; else it is made")
    given = parser.parse_args()
    steps = list(instructions((ROOT / "deploy" / "docker" / "Dockerfile").read_text()))
    release = re.fullmatch(r"debian:(\w+)-slim", dict(steps)["FROM"])[1]
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    image = Image(FOLDER / "root")
    if given.base:
        subprocess.run(["cp", "-a", given.base, image.folder], check=True)
    else:
        make = ["debootstrap", "--variant=minbase", release, image.folder]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    wheels = FOLDER / "dist"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", wheels, ROOT]
    subprocess.run(command, check=True)
    before = size(image.folder)
    for name, words in steps:
        print(f"{name} {words[:100]}", flush=True)
        carry_out(image, name, words, wheels)
        trust(image.folder)  # again and again: installing certificates writes them anew
    (image.folder / "bundle").mkdir(exist_ok=True)
    print(f"The image adds {size(image.folder) - before:.0f} MB to Debian's {before:.0f} MB.")
    check(image, given.bundle.absolute())
    print("The image's steps work.")


def instructions(text: str) -> list[tuple[str, str]]:
    """(name, words) of each instruction, lines joined and comments left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", lines)
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def carry_out(image: Image, name: str, words: str, wheels: Path) -> None:
    if name == "RUN":
        subprocess.run(image.command("/bin/sh", "-c", words), check=True)
    elif name == "COPY":
        *sources, target = words.split()
        place = image.folder / target.strip("/")
        place.mkdir(parents=True, exist_ok=True)
        for source in sources:
            files = wheels.glob("*") if source == "dist*" else [ROOT / source]
            for file in files:
                shutil.copy(file, place)
    elif name == "ARG":
        argument, _, value = words.partition("=")
        wheel = next(wheels.glob("*.whl")).name
        image.arguments[argument] = f"./{wheel}" if argument == "EDGEPRUNE" else value
    elif name == "ENV":
        image.settings |= dict(word.split("=", 1) for word in shlex.split(words))
    elif name == "WORKDIR":
        image.work = words
        (image.folder / words.strip("/")).mkdir(parents=True, exist_ok=True)
    elif name == "USER":
        image.user = words
    elif name == "HEALTHCHECK":
        image.health = json.loads(words[words.index("CMD") + 3 :])
    elif name == "ENTRYPOINT":
        image.entry = json.loads(words)
    elif name not in ("FROM", "EXPOSE"):
        raise SystemExit(f"The rehearsal does not know {name}.")


def check(image: Image, bundle: Path) -> None:
    """Start the entry point as an engine would, ask it, and stop it."""
    environment = {**os.environ, "BUNDLE": str(bundle)}
    process = subprocess.Popen(
        image.command(*image.entry, access="ro"), env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        assert any("answers at" in line for line in iter(process.stderr.readline, ""))
        body, kind = json.dumps({"texts": TEXTS}).encode(), {"Content-Type": "application/json"}
        asked = urllib.request.Request("http://127.0.0.1:8000/embed", body, kind)
        with urllib.request.urlopen(asked, timeout=60) as response:
            found = np.asarray(json.load(response)["embeddings"])
        expected = runtime.load(bundle).embed(TEXTS, batch_size=len(TEXTS))
        np.testing.assert_allclose(found, expected, atol=1e-4)
        subprocess.run(image.command(*image.health, access="ro"), check=True, env=environment)
        child = subprocess.run(
            ["pgrep", "-P", str(process.pid)], check=True, capture_output=True, text=True
        )
        status = Path(f"/proc/{child.stdout.strip()}/status").read_text()
        assert re.search(r"^Uid:\s+65532\s", status, re.M), status
        os.kill(int(child.stdout), signal.SIGTERM)
        code = process.wait(60)
        assert code == 0, code
        print("It ran as user 65532 on a read-only root, and ended with 0 at SIGTERM.")
    finally:
        process.kill()
        process.wait()


def trust(folder: Path) -> None:
    """This machine's certificates, where its package index has its own."""
    named = os.environ.get("PIP_CERT")
    if named:
        place = folder / named.strip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(named, place)


def size(folder: Path) -> float:
    """Megabytes on disk."""
    shown = subprocess.run(["du", "-sm", folder], check=True, capture_output=True, text=True)
    return float(shown.stdout.split()[0])


if __name__ == "__main__":
    main()
