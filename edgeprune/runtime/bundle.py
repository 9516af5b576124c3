"""The bundle: a folder that any ONNX client can open, with a manifest of its contents.

    my-bundle/
      onnx/model.onnx  (+ onnx/model.onnx_data)      the graph and, beyond 2 GB, its weights
      onnx/model_qint8_arm64.onnx, ...               other variants of it, where it has any
      config.json, generation_config.json            the model, as the Hugging Face hub lays it out
      tokenizer.json, tokenizer_config.json, ...     its tokenizer
      modules.json, 1_Pooling/config.json, 2_Dense/  how a sentence encoder pools
      edgeprune.json                                 the manifest
      README.md                                      the model card

`Bundle.open` also takes a plain folder (model.onnx or onnx/model.onnx beside tokenizer.json and
config.json) without a manifest; the task is then read from the graph's outputs.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from edgeprune.base.disk import telling_of_a_full_disk
from edgeprune.base.errors import UserError
from edgeprune.base.files import leaves_folder, load_json, read_json
from edgeprune.base.version import __version__
from edgeprune.model.config import check_types
from edgeprune.model.pooling import Pooling, read_pooling
from edgeprune.model.projection import Step, read_steps
from edgeprune.model.tasks import TASKS, task_of_graph
from edgeprune.runtime.onnx_file import Outline, read_outline
from edgeprune.runtime.variants import Variant, fastest_here
from edgeprune.text.prompts import Library, read_library

MANIFEST = "edgeprune.json"
CARD = "README.md"
# Files that no client reads for an answer, which may change freely. In fnmatch, * matches / too.
_HARMLESS = (
    MANIFEST,
    CARD,
    "LICENSE*",
    "NOTICE*",
    "report.html",
    ".gitattributes",
    ".gitignore",
    ".git/*",
    ".cache/huggingface/*",
)
FORMAT_VERSION = 1
MINIMUM_ONNXRUNTIME = "1.17.0"
# The first releases that run an operator, or an attribute of one, as it is used here;
# tests/runtime/test_oldest_onnxruntime.py tries each, and the release before it. (1.25 and 1.26
# open a quantized cache and fail when they run it; 1.21 and 1.27 run it with wrong results.)
FIRST_RELEASES = {
    "GroupQueryAttention": "1.22.0",
    "MatMulNBits of 8 bits": "1.22.0",
    "kv_cache_bit_width": "1.28.0",
}
_MODEL_PLACES = ("onnx/model.onnx", "model.onnx")
# Tokenizers without a stated maximum write a number near 1e30 here.
_NO_MAXIMUM = 1_000_000


class Bundle:
    """An opened bundle. Create one with `Bundle.open`; nothing heavy is loaded."""

    def __init__(
        self, folder: Path, manifest: dict[str, Any], variant: Variant | None = None
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self._variant = variant or Variant()
        self.cut_texts = 0
        """Texts beyond the model's maximum of which only the first part was read since then."""

    @classmethod
    def open(cls, folder: str | Path, variant: str | None = None) -> Self:
        """Open a bundle, or a plain folder with an ONNX model, and check that it is complete.

        Sizes and paths are checked here; `verify` reads every byte.

        Args:
            variant: the name of one of its graphs; None: the one that this processor runs fastest.

        Raises:
            UserError: no such folder, not a folder, no model in it, a missing or truncated file,
                external data outside the folder, no such variant, or a manifest of a newer format.
        """
        folder = Path(folder)
        if folder.is_file():
            holder = folder.parents[1] if folder.match(_MODEL_PLACES[0]) else folder.parent
            raise UserError(f"{folder} is a file: name its bundle, the folder {holder}.")
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}: name a bundle, the folder build wrote.")
        manifest = _read_manifest(folder) if (folder / MANIFEST).exists() else {}
        bundle = cls(folder, manifest, _chosen(folder, manifest, variant))
        for name, entry in manifest.get("files", {}).items():
            size = _listed_file(folder, name).stat().st_size
            if size != entry["bytes"]:
                raise UserError(
                    f"{folder / name} is damaged: it has {size:,} bytes and the manifest says "
                    f"{entry['bytes']:,}; copy or build the bundle again."
                )
        bundle.data_paths  # noqa: B018  (finds the model and checks where its data lies)
        return bundle

    @property
    def variant(self) -> str:
        """The name of the graph that was opened, where the manifest names any; else empty."""
        return self._variant.name

    @property
    def variants(self) -> tuple[str, ...]:
        """The names of all its graphs, the one that the build compared with the original first;
        none where the manifest names none."""
        return tuple(each.name for each in read_variants(self.folder, self.manifest))

    @property
    def stages(self) -> Any:
        """The manifest's records of the stages: of another variant than the first, of those that
        it has of its own."""
        own = self._variant.stages
        return self.manifest.get("stages", []) if own is None else own

    @property
    def graph_sha256(self) -> str | None:
        """The graph's hash as the manifest states it; None without a manifest."""
        return graph_sha256(self.manifest, self._variant.file)

    def verify(self) -> None:
        """Compare the folder with its manifest, if it has one: each listed file has its SHA-256,
        and there is no other file that a client might read for its answers.

        Raises:
            UserError: a file was altered or added, or is a link that leaves the bundle.
        """
        if not self.manifest:
            return
        listed = self.manifest["files"]
        for name, entry in listed.items():
            path = _listed_file(self.folder, name)
            if not _stays_inside(path, self.folder, self.model_path):
                raise UserError(f"{path} is a link that leaves the bundle: refused.")
            if _sha256(path) != entry["sha256"]:
                raise UserError(
                    f"{path} was altered: its SHA-256 is not the manifest's; "
                    f"copy or build the bundle again."
                )
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            known = name in listed or any(fnmatchcase(name, each) for each in _HARMLESS)
            if not known and (path.is_symlink() or not path.is_dir()):
                raise UserError(
                    f"{path} is not of this bundle: its manifest lists no such file, which could "
                    f"change the answers; remove it, or copy or build the bundle again."
                )

    @cached_property
    def model_path(self) -> Path:
        if self._variant.file:
            return _listed_file(self.folder, self._variant.file)
        for place in _MODEL_PLACES:
            if (self.folder / place).is_file():
                return self.folder / place
        hint = ""
        if any(self.folder.glob("*.safetensors")) or any(self.folder.glob("*.gguf")):
            hint = f" Make a bundle of it with `edgeprune build --model {self.folder}`."
        if (self.folder / "bundle" / MANIFEST).is_file():
            hint = f" It is what a build left: name {self.folder / 'bundle'}."
        raise UserError(
            f"{self.folder} holds no ONNX model: neither {' nor '.join(_MODEL_PLACES)}.{hint}"
        )

    @cached_property
    def outline(self) -> Outline:
        """Inputs, outputs and operators of the graph."""
        return read_outline(self.model_path)

    @cached_property
    def data_paths(self) -> tuple[Path, ...]:
        """The files of the model's external data, if any."""
        paths = []
        for location in sorted(self.outline.external_files):
            path = self.model_path.parent / location
            if leaves_folder(location) or not _stays_inside(path, self.folder, self.model_path):
                raise UserError(
                    f"{self.model_path} wants its data from {location!r}, outside its own folder: "
                    f"refused."
                )
            if not path.is_file():
                raise UserError(f"{self.model_path} needs the file {path}, which is missing.")
            paths.append(path)
        return tuple(paths)

    @property
    def model_bytes(self) -> int:
        """Bytes of the graph and its external data."""
        return sum(path.stat().st_size for path in (self.model_path, *self.data_paths))

    @property
    def tokenizer_path(self) -> Path:
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"{self.folder} has no tokenizer.json, which reading text needs.")
        return path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's config.json."""
        config = self.read_json("config.json")
        if config is None:
            raise UserError(f"{self.folder} has no config.json, so its model is unknown.")
        check_types(config, self.folder / "config.json")
        return config

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        return self.read_json("tokenizer_config.json") or {}

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        return self.read_json("generation_config.json") or {}

    @property
    def minimum_onnxruntime(self) -> str | None:
        """The oldest ONNX Runtime that opens it; None if the manifest states none."""
        return self._variant.minimum_onnxruntime or self.manifest.get("minimum_onnxruntime")

    @cached_property
    def task(self) -> str:
        """One of TASKS: as the manifest states it, else by the graph's outputs."""
        outputs = self.outline.outputs
        if stated := self.manifest.get("task"):
            config = self.read_json("config.json")
            seen = task_of_graph(outputs, config) if config else None
            if seen is not None and seen.name != stated:
                raise UserError(
                    f"{self.folder / MANIFEST} says that the model does {stated}, and its graph "
                    f"and config.json are of {seen.name}: correct the task, or build it again."
                )
            return stated
        # Logits are told apart by the configuration; anything else may do without.
        config = self.config if "logits" in outputs or task_of_graph(outputs) is None else {}
        if task := task_of_graph(outputs, config):
            return task.name
        heads = " ".join(config.get("architectures") or [])
        raise UserError(
            f"{self.folder} gives logits of a kind that is neither classification nor generation "
            f"(config.json says {heads or 'nothing'}); edgeprune runs {', '.join(TASKS)}."
        )

    @cached_property
    def max_length(self) -> int | None:
        """The maximum tokens of a sequence; None if no file states one."""
        sentence = self.read_json("sentence_bert_config.json") or {}
        stated = [
            self.manifest.get("max_length"),
            # The first, where it is stated, is said of the tokenizer and overrules it.
            sentence.get("max_seq_length") or self.tokenizer_config.get("model_max_length"),
            self.config.get("max_position_embeddings"),
        ]
        known = [int(n) for n in stated if isinstance(n, int | float) and 0 < n < _NO_MAXIMUM]
        return min(known, default=None)

    @cached_property
    def pooling(self) -> Pooling | None:
        """The pooling of a sentence encoder's tokens; None if the folder does not say."""
        return read_pooling(self.folder)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The modules that a sentence encoder's pooled vector goes through."""
        return read_steps(self.folder)

    @cached_property
    def library(self) -> Library:
        """A sentence encoder's prompts, width and similarity."""
        return read_library(self.folder) if TASKS[self.task].pools else Library()

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The object in a JSON file of the bundle; None if there is no such file."""
        path = self.folder / name
        return read_json(path) if path.is_file() else None


def oldest_onnxruntime(outline: Outline) -> str:
    """The oldest ONNX Runtime that runs a graph, by its operators and their attributes."""
    groups = (f"MatMulNBits of {bits} bits" for bits in outline.bits)
    used = {*outline.operators, *outline.functions, *outline.attributes, *groups}
    releases = [MINIMUM_ONNXRUNTIME, *(FIRST_RELEASES[name] for name in used & set(FIRST_RELEASES))]
    return max(releases, key=lambda release: tuple(map(int, release.split("."))))


def write_bundle(
    folder: str | Path,
    graphs: Mapping[str, Path],
    assets_folder: str | Path,
    manifest: dict[str, Any],
    card: Callable[[Bundle], str] | None = None,
) -> Bundle:
    """Write a bundle to `folder`, completely or not at all.

    Everything is assembled in a temporary folder beside it and renamed into place. An existing
    bundle is replaced; anything else is left alone.

    Args:
        graphs: by its path in the bundle, each graph, which lies beside its external data.
        assets_folder: tokenizer, config and the rest, copied unchanged.
        manifest: must name a "task"; format, versions and the files' hashes are added here, and
            the bytes and the oldest ONNX Runtime of each entry of "variants".
        card: writes the model card from the bundle with its complete manifest. The manifest does
            not list the card, because people edit it later, also on the hub.

    Raises:
        UserError: `folder` holds something else, a part is missing, or the disk is full.
    """
    folder, assets_folder = Path(folder).absolute(), Path(assets_folder)
    if manifest.get("task") not in TASKS:
        raise ValueError(f"the manifest must name a task, one of {', '.join(TASKS)}")
    check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with telling_of_a_full_disk(folder):
            built = aside / "new"
            for path in sorted(assets_folder.rglob("*")):
                if path.is_file():
                    _copy(path, built / path.relative_to(assets_folder))
            for name, graph in graphs.items():
                _copy(graph, built / name)
                for location in read_outline(graph).external_files:
                    if leaves_folder(location):
                        raise UserError(f"{graph} keeps its data outside its folder.")
                    _copy(graph.parent / location, (built / name).parent / location)
            _write_manifest(built, manifest)
            opened = Bundle.open(built)
            if card is not None:
                (built / CARD).write_text(card(opened), encoding="utf-8")
            if folder.exists():
                folder.rename(aside / "old")
            built.rename(folder)
    finally:
        if (aside / "old").exists() and not folder.exists():
            (aside / "old").rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
    return Bundle.open(folder)


def sweep(folder: Path) -> None:
    """Remove the leftovers of killed writes beside `folder`, and put back a bundle that was being
    replaced. Safe only while nothing else writes to it."""
    aside = re.compile(rf"\.{re.escape(folder.name)}\.[a-z0-9_]{{8}}")
    for left in folder.parent.glob(".*"):
        if not (aside.fullmatch(left.name) and left.is_dir()):
            continue
        if not {part.name for part in left.iterdir()} <= {"new", "old"}:
            continue
        if (left / "old").exists() and not folder.exists():
            (left / "old").rename(folder)
        shutil.rmtree(left, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """Refuse to write over anything but a bundle or an empty folder.

    Raises:
        UserError: `folder` is a file, or a folder that holds something else.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is not a folder: name another output folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise UserError(
            f"{folder} holds something other than a bundle: name another output folder, or empty "
            "it."
        )


def _copy(source: Path, target: Path) -> None:
    """Copy the bytes, not the permissions: anyone may read a bundle, however private its parts."""
    if not source.is_file():
        raise UserError(f"{source} is missing, so the bundle cannot be written.")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": _sha256(path),
        }
        for path in files
        if path not in (folder / MANIFEST, folder / CARD)
    }
    variants = [_completed(folder, entry) for entry in manifest.get("variants", ())]
    first = folder / (variants[0]["file"] if variants else _MODEL_PLACES[0])
    whole = {
        "format_version": FORMAT_VERSION,
        "edgeprune": __version__,
        "minimum_onnxruntime": oldest_onnxruntime(read_outline(first)),
        **manifest,
        **({"variants": variants} if variants else {}),
        "files": listed,
    }
    text = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _completed(folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """A variant's entry with what its files tell."""
    outline = read_outline(folder / entry["file"])
    beside = (folder / entry["file"]).parent
    files = [folder / entry["file"], *(beside / name for name in outline.external_files)]
    known = {
        "bytes": sum(path.stat().st_size for path in files),
        "minimum_onnxruntime": oldest_onnxruntime(outline),
    }
    return {**entry, **known}


def read_variants(folder: Path, manifest: Mapping[str, Any]) -> list[Variant]:
    """The variants that a manifest names; none of a bundle of an earlier release.

    Raises:
        UserError: the manifest is damaged there.
    """
    try:
        found = [Variant.from_json(entry) for entry in manifest.get("variants", ())]
        unlisted = [each.file for each in found if each.file not in manifest["files"]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{folder / MANIFEST} is damaged where it names the variants ({error}): copy or build "
            "the bundle again."
        ) from None
    if unlisted:
        raise UserError(
            f"{folder / MANIFEST} names the variant {unlisted[0]!r}, which is none of its files: "
            "copy or build the bundle again."
        )
    return found


def _chosen(folder: Path, manifest: Mapping[str, Any], name: str | None) -> Variant | None:
    """The variant of that name; of none, the one that this processor runs fastest; None where the
    manifest names no variants.

    Raises:
        UserError: there is none of that name.
    """
    found = read_variants(folder, manifest)
    if name is None:
        works = TASKS[manifest["task"]].works if found else ()
        return fastest_here(found, works) if found else None
    for each in found:
        if each.name == name:
            return each
    known = ", ".join(each.name for each in found)
    raise UserError(
        f"{folder} has no variant {name!r}: name one of {known}."
        if known
        else f"{folder} has one graph and no variants: leave --variant out."
    )


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    manifest = load_json(path)
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int) or version < 1:
        raise UserError(f"{path} is not a manifest of edgeprune: it states no format_version.")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{folder} was written by a newer edgeprune (bundle format {version}; this one reads "
            f"up to {FORMAT_VERSION}): install a newer edgeprune here."
        )
    if manifest.get("task") not in tuple(TASKS):  # it may be anything
        raise UserError(f"{path} names no task that edgeprune runs: {', '.join(TASKS)}.")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(
        isinstance(entry, dict)
        and isinstance(entry.get("bytes"), int)
        and isinstance(entry.get("sha256"), str)
        for entry in files.values()
    ):
        raise UserError(f"{path} does not list its files with their bytes and SHA-256.")
    return manifest


def graph_sha256(manifest: Mapping[str, Any], file: str = "") -> str | None:
    """The hash of a bundle's graph, by which it is known wherever it lies.

    Args:
        file: the graph's path; empty: that of the first.
    """
    variants = manifest.get("variants") or [{"file": _MODEL_PLACES[0]}]
    listed = manifest.get("files", {}).get(file or variants[0]["file"], {})
    found: str | None = listed.get("sha256")
    return found


def _listed_file(folder: Path, name: str) -> Path:
    """The path of a file that the manifest lists, which must exist inside the bundle."""
    path = folder / name
    if leaves_folder(name):
        raise UserError(f"{folder / MANIFEST} lists {name!r}, outside the bundle: refused.")
    if not path.is_file():
        raise UserError(
            f"{folder} is not whole: {name} is missing; copy or build the bundle again."
        )
    return path


def _stays_inside(path: Path, folder: Path, model: Path) -> bool:
    """Whether a data file lies in the bundle once links are followed.

    The hub's download cache links each file of a snapshot to a folder of blobs, so a file that
    lies beside the model's own blob counts as inside.
    """
    real = path.resolve()
    return real.is_relative_to(folder.resolve()) or real.parent == model.resolve().parent


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
