"""A model's tokenizer: the one place that opens tokenizer.json, and that makes its settings
readable for current clients."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers

from edgeprune.base.errors import UserError
from edgeprune.base.files import read_object

TOKENIZER_SETTINGS = "tokenizer_config.json"
# Texts that reveal a damaged file: the special tokens around nothing, and unknown letters.
_PROBES = ("", "ᚠ𓀀")


def open_tokenizer(file: Path) -> Tokenizer:
    """A tokenizer without padding or truncation, whatever its file says, that lower-cases text
    where its folder says so.

    Raises:
        UserError: the file is damaged.
    """
    try:
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        for probe in _PROBES:
            tokenizer.encode(probe)
    except BaseException as error:
        # The library raises nothing narrower than Exception, and a panic is not even that.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(
            f"{file} is not a readable tokenizer file: {error} (save the model's tokenizer again)."
        ) from None
    if lower_cases(file.parent):
        own = [tokenizer.normalizer] if tokenizer.normalizer else []
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    return tokenizer


def check_ends(folder: Path) -> None:
    """Refuse a tokenizer whose settings ask for a token around each text that tokenizer.json does
    not put there.

    transformers 4 adds it, and version 5 does not, so that a text has two vectors, far apart where
    its last token is the vector.

    Raises:
        UserError: naming the setting and the token.
    """
    file, settings = folder / "tokenizer.json", read_object(folder / TOKENIZER_SETTINGS)
    asked = [kind for kind in ("bos", "eos") if settings.get(f"add_{kind}_token")]
    if not asked or not file.is_file():
        return
    tokens = open_tokenizer(file).encode("a").tokens
    for kind in asked:
        named = settings.get(f"{kind}_token")
        token = named.get("content") if isinstance(named, dict) else named
        if token is not None and token != tokens[0 if kind == "bos" else -1]:
            where = "before" if kind == "bos" else "after"
            raise UserError(
                f"{folder / TOKENIZER_SETTINGS} asks for {token} {where} each text "
                f"(add_{kind}_token), and tokenizer.json puts none there, so that transformers 4 "
                "and 5 read a text differently: let the post_processor of tokenizer.json add it, "
                f"or set add_{kind}_token to false, as the model was trained."
            )


def settings_for_clients(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of tokenizer_config.json as transformers 4 and 5 both read them; version 5
    writes a name for the class, and lists of special tokens, that version 4 refuses."""
    settings = dict(settings)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        extra = settings.pop("extra_special_tokens")
        settings.setdefault("additional_special_tokens", extra)
    return settings


def lower_cases(folder: Path) -> bool:
    """True where the encoder in `folder` lower-cases all text itself."""
    return bool(read_object(folder / "sentence_bert_config.json").get("do_lower_case"))
