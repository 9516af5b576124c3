"""Rerankers that are decoders and answer by a word: Qwen3-Reranker and its like.

sentence-transformers keeps of such a model, beside the decoder, which token says that a document
answers a query, and which says that it does not (modules.json, LogitScore). The score is the
difference of their logits after the last token,

    h . W[yes] - h . W[no] = h . (W[yes] - W[no]),

which is a head of one logit: the model is read as one that classifies sequences, and the other rows
of the vocabulary's head are left out. Its chat template becomes the text around a pair.
"""

import atexit
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tokenizers import Tokenizer

from edgeprune.base.errors import UserError
from edgeprune.base.files import link_or_copy, read_object
from edgeprune.model.family import Shape
from edgeprune.model.modules import (
    MODULES,
    TRANSFORMER,
    Module,
    kinds_of,
    listed_modules,
    settings_of,
)
from edgeprune.model.tensor_files import Part, Place, TensorFiles
from edgeprune.text.chat_template import chat_template, rendered
from edgeprune.text.pair_template import PairTemplate, taken_apart
from edgeprune.text.prompts import read_library
from edgeprune.text.tokenizer_file import open_tokenizer

LOGIT_SCORE = "LogitScore"
HEAD = "lm_head.weight"
"""Left out of what such a model is read from."""
_SCORE = "score.weight"
_CAUSAL, _SEQUENCES = "ForCausalLM", "ForSequenceClassification"
_BENT = ("final_logit_softcapping", "logits_scaling", "logit_scale")
"""Settings by which logits are no longer the states' products with the head."""
_FIRST_MODULE = "sentence_bert_config.json"
_SIZES = ("padding", "truncation", "max_length", "return_tensors", "restore_suffix")


@dataclass(frozen=True)
class Verdict:
    """The tokens by which a decoder says that a document answers a query, or does not."""

    yes: int
    no: int | None


def read_verdict(folder: Path) -> Verdict | None:
    """The tokens that the folder of a decoder names; None where it ranks by no word.

    Raises:
        UserError: it names no token.
    """
    if kinds_of(folder) != [TRANSFORMER, LOGIT_SCORE]:
        return None
    path = listed_modules(folder)[-1].get("path", "")
    found = settings_of(folder, Module(LOGIT_SCORE, str(path)))
    yes, no = found.get("true_token_id"), found.get("false_token_id")
    if type(yes) is not int or (no is not None and type(no) is not int):
        raise UserError(
            f"{folder / str(path)}: true_token_id and false_token_id must be tokens' numbers."
        )
    return Verdict(yes, no)


def as_scorer(
    folder: Path,
    config: Mapping[str, Any],
    files: tuple[Path, ...],
    shapes: Mapping[str, Shape],
    verdict: Verdict,
) -> Path:
    """A folder of the same model with a head of one logit, for as long as this process runs: links
    to what stays, and what differs.

    Raises:
        UserError: its logits are not linear in its last states, it lacks a head, or its template
            cannot be taken apart.
    """
    place = Path(mkdtemp(prefix="edgeprune-scorer-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    written = {MODULES, _FIRST_MODULE, "config.json"}
    for file in folder.iterdir():
        weights = file.suffix == ".safetensors" or file.name.endswith(".index.json")
        if file.is_file() and not weights and file.name not in written:
            link_or_copy(file.resolve(), place / file.name)
    where: dict[str, str] = {}
    for number, file in enumerate(files):
        name = f"layers-{number}.safetensors"
        link_or_copy(file.resolve(), place / name)
        where |= dict.fromkeys(TensorFiles.of([file]), name)
    where.pop(HEAD, None)
    _write_score(place / "score.safetensors", _score(folder, config, files, shapes, verdict))
    where[_SCORE] = "score.safetensors"
    index = {"metadata": {}, "weight_map": where}
    (place / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    tokenizer = open_tokenizer(folder / "tokenizer.json")
    _write(place / "config.json", _settings(folder, config, tokenizer))
    [transformer, _] = listed_modules(folder)
    _write(place / MODULES, [transformer])
    if (folder / _FIRST_MODULE).is_file():
        _write(place / _FIRST_MODULE, _first_module(read_object(folder / _FIRST_MODULE)))
    if (template := _template(folder, tokenizer)) is not None:
        template.write(place)
    return place


def _score(
    folder: Path,
    config: Mapping[str, Any],
    files: tuple[Path, ...],
    shapes: Mapping[str, Shape],
    verdict: Verdict,
) -> Any:
    """The head of one logit [1, width] in float32."""
    if bent := [name for name in _BENT if config.get(name)]:
        raise UserError(
            f"{folder} ranks by logits that its {bent[0]} bends, which EdgePrune does not run."
        )
    tied = [name for name in shapes if name.endswith("embed_tokens.weight")]
    names = [HEAD] if HEAD in shapes else tied if config.get("tie_word_embeddings") else []
    if len(names) != 1 or "lm_head.bias" in shapes:
        raise UserError(f"{folder} has no {HEAD} alone, by whose rows it could rank.")
    [name] = names
    rows = shapes[name][0]
    [file] = [file for file in files if name in TensorFiles.of([file])]
    found = []
    for token in (verdict.yes, verdict.no):
        if token is not None and not 0 <= token < rows:
            raise UserError(f"{folder} ranks by the token {token}, and has {rows:,}.")
        if token is not None:
            row = TensorFiles({_SCORE: Place(file, name, Part(rows=(token, token + 1)))})
            found.append(row.read(_SCORE))
    return found[0] - found[1] if len(found) > 1 else found[0]


def _write_score(file: Path, values: Any) -> None:
    from safetensors.numpy import save_file

    save_file({_SCORE: values.copy()}, file, {"format": "pt"})


def _settings(folder: Path, config: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """The config.json of the same layers with one label."""
    found = dict(read_object(folder / "config.json"))
    named = str((config.get("architectures") or [""])[0])
    if not named.endswith(_CAUSAL):
        raise UserError(
            f"{folder} ranks by its next word (modules.json), and {named or 'its class'} writes "
            "none: name a class that does in config.json (architectures)."
        )
    found["architectures"] = [named.removesuffix(_CAUSAL) + _SEQUENCES]
    found |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    if found.get("pad_token_id") is None:  # without one, texts could not be scored together
        pad = read_object(folder / "tokenizer_config.json").get("pad_token")
        pad = pad.get("content") if isinstance(pad, dict) else pad
        number = tokenizer.token_to_id(pad) if isinstance(pad, str) else None
        ends = config.get("eos_token_id")
        end = ends[0] if isinstance(ends, list) and ends else ends
        found["pad_token_id"] = end if number is None else number
    return found


def _first_module(found: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the Transformer module once it gives scores."""
    changed = dict(found) | {"transformer_task": "sequence-classification"}
    if "module_output_name" in found:
        changed["module_output_name"] = "scores"
    return changed


def _template(folder: Path, tokenizer: Tokenizer) -> PairTemplate | None:
    """The text around pairs, by the folder's chat template and its usual prompt; None where it has
    no template.

    Raises:
        UserError: the template does not put both texts as they are between texts of its own.
    """
    first = read_object(folder / _FIRST_MODULE)
    reads = first.get("modality_config") or {}
    options = (first.get("processing_kwargs") or {}).get("chat_template") or {}
    options = {name: value for name, value in options.items() if name not in _SIZES}
    settings = read_object(folder / "tokenizer_config.json")
    if chat_template(folder, settings) is None or (reads and "message" not in reads):
        return None
    prompt = read_library(folder).prompt()
    flat = (reads.get("message") or {}).get("format") != "structured"

    def render(query: str, document: str) -> str:
        said = [("system", prompt)] if prompt else []
        said += [("query", query), ("document", document)]
        messages = [
            {"role": role, "content": text if flat else [{"type": "text", "text": text}]}
            for role, text in said
        ]
        return rendered(folder, settings, messages, **options)

    template = taken_apart(render, tokenizer)
    if template is None:
        raise UserError(
            f"{folder} has a chat template that does not put the messages of the roles query and "
            "document, as they are and in this order, between texts of its own: EdgePrune ranks "
            "by no other."
        )
    return template


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
