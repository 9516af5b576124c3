"""tokenizer.json: damaged ones are told in a sentence, and settings are said for every client."""

import json
from pathlib import Path

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import encoder_folder
from tiny_builds import dry_run, model_folder
from tiny_tokenizers import KINDS, content, tokenizer_json

from edgeprune import runtime
from edgeprune.base.errors import UserError
from edgeprune.model.assets import copy_assets
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.tokenize import Tokenizer
from edgeprune.text.tokenizer_file import check_ends, open_tokenizer


def panicking() -> str:
    """A file at which the library panics when it first meets the special tokens."""
    damaged = content("byte-fallback")
    damaged["post_processor"]["special_tokens"] = {}
    return json.dumps(damaged)


def test_the_library_panics_at_it():
    broken = tokenizers.Tokenizer.from_str(panicking())
    with pytest.raises(BaseException, match="no entry found") as error:
        broken.encode("a")
    assert not isinstance(error.value, Exception)


def test_a_panic_is_a_sentence_for_the_runtime_and_the_build(tmp_path):
    bundle = encoder_folder(tmp_path / "bundle")
    (bundle / "tokenizer.json").write_text(panicking())
    with pytest.raises(UserError, match=r"not a readable tokenizer file: no entry found"):
        runtime.load(bundle)

    model = model_folder(tmp_path / "model")
    (model / "tokenizer.json").write_text(panicking())
    result = dry_run(model, tmp_path)
    assert result.exit_code == 2
    assert "is not a readable tokenizer file: no entry found" in result.stderr


def test_a_token_that_the_model_has_no_row_for_may_stand_in_no_text(tmp_path):
    model = model_folder(tmp_path / "model")
    tokenizer = open_tokenizer(model / "tokenizer.json")
    rows = tokenizer.get_vocab_size()
    tokenizer.add_tokens(["w001w002"])
    tokenizer.save(str(model / "tokenizer.json"))
    assert dry_run(model, tmp_path).exit_code == 0
    tokenizer.add_tokens(["w001"[:3]])  # part of every other word
    tokenizer.save(str(model / "tokenizer.json"))
    result = dry_run(model, tmp_path)
    assert result.exit_code == 2
    assert f"has the token 'w00', which is number {rows + 1:,} in" in result.stderr
    assert f"the model has rows for {rows:,}: give" in result.stderr


def test_a_ctrl_c_is_no_damage(tmp_path, monkeypatch):
    def press(*_given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeprune.text.tokenizer_file.Tokenizer.from_file", press, raising=False)
    with pytest.raises(KeyboardInterrupt):
        open_tokenizer(tmp_path / "tokenizer.json")


def _places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Paths to all that a tokenizer's file says, but for most of its vocabulary."""
    inner = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value) if isinstance(value, list) else inner
    return [path, *(p for key, each in list(inner)[:12] for p in _places(each, (*path, key)))]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_tokenizer_is_taken_or_told_in_a_sentence(tmp_path_factory, data):
    damaged = content(data.draw(st.sampled_from(KINDS)))
    *path, last = data.draw(st.sampled_from(_places(damaged)[1:]))
    place = damaged
    for key in path:
        place = place[key]
    place[last] = data.draw(
        st.sampled_from([None, 0, -1, 99_999, 10**12, 1.5, "", "é", "[UNK]", [], [[]], {}, True])
    )
    file = tmp_path_factory.getbasetemp() / "mutated" / "tokenizer.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(damaged))
    try:
        tokenizer = open_tokenizer(file)
    except UserError:
        return
    for text in ("", "the playing of 日本 works, <|end|>", "\0 x"):
        tokenizer.decode(tokenizer.encode(text).ids)


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_text_is_read_in_lower_case_where_the_encoder_says_so(kind, tmp_path):
    """As sentence-transformers does: before all that the tokenizer does itself."""
    file = tmp_path / "tokenizer.json"
    file.write_text(tokenizer_json(kind))
    plain = open_tokenizer(file)
    for lower in (True, False):
        told = json.dumps({"max_seq_length": 64, "do_lower_case": lower})
        (tmp_path / "sentence_bert_config.json").write_text(told)
        text = "The PLAYERS reading"
        expected = plain.encode(text.lower() if lower else text).ids
        assert open_tokenizer(file).encode(text).ids == expected
    assert kind == "wordpiece" or plain.encode("PLAY").ids != plain.encode("play").ids


def test_settings_of_transformers_5_are_said_so_that_both_versions_read_them(tmp_path):
    source = model_folder(tmp_path / "model")
    written = {
        "backend": "tokenizers",
        "tokenizer_class": "TokenizersBackend",
        "extra_special_tokens": ["[CLS]", "w001"],
        "pad_token": "[PAD]",
        "is_local": True,
    }
    (source / "tokenizer_config.json").write_text(json.dumps(written))
    copy_assets(source, tmp_path / "bundle")
    copy_assets(tmp_path / "bundle", tmp_path / "again")
    for folder in ("bundle", "again"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / folder)
        assert tokenizer.extra_special_tokens == ["[CLS]", "w001"]
        settings = json.loads((tmp_path / folder / "tokenizer_config.json").read_text())
        assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert settings["additional_special_tokens"] == ["[CLS]", "w001"]
        assert "extra_special_tokens" not in settings
        assert tokenizer.pad_token_id == 0


@pytest.mark.parametrize(
    ("config", "expected"),
    [({"pad_token_id": 7}, 7), ({"pad_token_id": 5000}, 0), ({"pad_token_id": -1}, 0), ({}, 0)],
)
def test_padding_is_the_models_own_id_or_one_within_its_table(config, expected, tmp_path):
    folder = encoder_folder(tmp_path)
    file = folder / "config.json"
    stated = json.loads(file.read_text())
    stated.pop("pad_token_id", None)
    file.write_text(json.dumps(stated | config))
    assert Tokenizer(Bundle.open(folder)).pad_id == expected


def test_a_padding_token_beyond_the_table_is_not_used(tmp_path):
    folder = encoder_folder(tmp_path)
    rust = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    rust.add_special_tokens(["[LATE]"])
    rust.save(str(folder / "tokenizer.json"))
    stated = json.loads((folder / "config.json").read_text())
    stated["vocab_size"] = rust.token_to_id("[LATE]")
    (folder / "config.json").write_text(json.dumps(stated))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[LATE]"}))
    assert Tokenizer(Bundle.open(Path(folder))).pad_id == 0


@pytest.mark.parametrize(
    ("asked", "template", "refused"),
    [
        ({"add_eos_token": True}, "$A", "asks for </s> after each text (add_eos_token)"),
        ({"add_bos_token": True}, "$A </s>", "asks for <s> before each text (add_bos_token)"),
        ({"add_eos_token": True, "add_bos_token": False}, "$A </s>", None),
        ({"add_eos_token": False}, "$A </s>", None),
        ({}, "<s> $A", None),
    ],
)
def test_settings_that_ask_for_a_token_that_is_not_there(asked, template, refused, tmp_path):
    words = {"<s>": 0, "</s>": 1, "a": 2}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="a"))
    special = [("<s>", 0), ("</s>", 1)]
    around = tokenizers.processors.TemplateProcessing(single=template, special_tokens=special)
    made.post_processor = around
    made.save(str(tmp_path / "tokenizer.json"))
    stated = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", **asked}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated))
    if refused is None:
        check_ends(tmp_path)
        return
    with pytest.raises(UserError) as error:
        check_ends(tmp_path)
    assert refused in str(error.value)
