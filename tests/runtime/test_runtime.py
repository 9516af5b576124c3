import math
import os
import string
import subprocess
import sys
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import (
    VOCABULARY,
    classifier_folder,
    decoder_folder,
    decoder_logits,
    encoder_folder,
    ids_of,
    make_bundle,
    mixing,
    table,
    write_json,
)
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from edgeprune import runtime
from edgeprune.base.errors import UserError
from edgeprune.base.progress import say_once
from edgeprune.measure.evaluate.measures import MEASURES
from edgeprune.model.projection import unit_length
from edgeprune.runtime import batches, cache, session
from edgeprune.runtime.embed import Embedder
from edgeprune.runtime.generate import Generator, stream_text
from edgeprune.runtime.sampling import Sampling, choose
from edgeprune.runtime.session import open_session
from edgeprune.runtime.tokenize import Tokenizer

TEXTS = ["the cat sat on a mat", "the dog", "a dog ran far away", "cat", ""]


def pooled_folder(folder: Path, pooling: str, **config: Any) -> Path:
    encoder_folder(folder, **config)
    kinds = ["Transformer", "Pooling", *(["Normalize"] if pooling == "mean" else [])]
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": "p"} for kind in kinds]
    write_json(folder / "modules.json", modules)
    write_json(folder / "p" / "config.json", {"pooling_mode": pooling})
    return folder


def hidden_states(text: str) -> np.ndarray:
    return table()[ids_of(text)] @ mixing()


def test_mean_pooling_leaves_padding_out_and_normalizes(tmp_path: Path) -> None:
    embedder = runtime.load(pooled_folder(tmp_path, "mean"), threads=1)
    means = np.array([hidden_states(text).mean(axis=0) for text in TEXTS])
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    for batch_size in (1, 2, 32):
        np.testing.assert_allclose(embedder.embed(TEXTS, batch_size), expected, atol=1e-6)


def test_texts_share_a_call_as_far_as_its_tokens_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = runtime.load(pooled_folder(tmp_path, "mean"), threads=1)
    assert isinstance(embedder, Embedder)
    texts = TEXTS * 3
    lengths = [len(tokens.ids) for tokens in embedder.tokenizer.encode(texts)]
    most = max(lengths) - 1  # so that one text alone is longer
    monkeypatch.setattr("edgeprune.runtime.batches.CALL_TOKENS", most)
    shapes = []

    class Watched:
        def __init__(self, session: onnxruntime.InferenceSession) -> None:
            self.get_inputs, self._run = session.get_inputs, session.run

        def run(
            self, names: list[str], feeds: dict[str, np.ndarray], options: Any
        ) -> list[np.ndarray]:
            shapes.append(feeds["input_ids"].shape)
            return self._run(names, feeds, options)

    one_by_one = embedder.embed(texts, batch_size=1)
    embedder.session = Watched(embedder.session)  # type: ignore[assignment]
    np.testing.assert_allclose(embedder.embed(texts), one_by_one, atol=1e-6)
    assert sum(rows for rows, _ in shapes) == len(texts)
    assert all(rows == 1 or rows * longest <= most for rows, longest in shapes)
    assert any(rows > 1 for rows, _ in shapes)
    assert all(rows == max(1, most // longest) for rows, longest in shapes[:-1])


def memory_after_batches(folder: Path, without: bool) -> float:
    """Megabytes by which batches of several shapes leave a process larger than one text did."""
    code = f"""
import psutil
from edgeprune import runtime
from edgeprune.runtime import batches
if {without}:
    batches._giving_back = lambda: None
embedder = runtime.load({str(folder)!r}, threads=1)
process = psutil.Process()
embedder.embed(["the cat"])
before = process.memory_info().rss
embedder.embed(["cat " * words for words in (60, 50, 40, 30, 20, 1) for _ in range(200)], 200)
print((process.memory_info().rss - before) / 1e6)
"""
    # What the C library keeps for itself is no part of it.
    around = os.environ | {"MALLOC_MMAP_THRESHOLD_": "100000", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=around
    )
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is Linux's")
def test_large_batches_give_their_memory_back(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path, depth=3, width=256)
    states = 200 * 62 * 256 * 4 / 1e6  # of one layer
    kept, given_back = (memory_after_batches(folder, without) for without in (True, False))
    assert kept > 2 * states
    assert given_back < 0.7 * kept


@pytest.mark.parametrize(("texts", "size", "given"), [(1, 1, 0), (2, 1, 0), (2, 2, 1), (5, 2, 1)])
def test_only_batches_beyond_the_usual_give_memory_back_once(
    texts: int, size: int, given: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = runtime.load(pooled_folder(tmp_path, "mean"), threads=1)
    made: list[onnxruntime.RunOptions] = []
    whole = batches._giving_back
    monkeypatch.setattr(batches, "_giving_back", lambda: made.append(whole()) or made[-1])
    monkeypatch.setattr(batches, "CALL_TOKENS", 7)
    embedder.embed(["the cat"] * texts, batch_size=size)  # 4 tokens each
    assert len(made) == given
    embedder.embed(["the cat"] * texts)  # as many as fit
    assert len(made) == given
    assert {each.get_run_config_entry(batches.GIVES_BACK) for each in made} <= {"cpu:0"}


def test_cls_pooling_takes_the_first_token(tmp_path: Path) -> None:
    embedder = runtime.load(pooled_folder(tmp_path, "cls"), threads=1)
    expected = np.array([hidden_states(text)[0] for text in TEXTS])
    np.testing.assert_allclose(embedder.embed(TEXTS), expected, atol=1e-6)


def test_a_folder_without_pooling_takes_the_mean_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say_once.cache_clear()
    folder = encoder_folder(tmp_path)
    embedder, _again = (runtime.load(folder, threads=1) for _ in range(2))
    said = " ".join(capsys.readouterr().err.split())
    assert said == "The model does not say how to pool its tokens: taking their mean."
    expected = np.array([hidden_states(text).mean(axis=0) for text in TEXTS])
    np.testing.assert_allclose(embedder.embed(TEXTS), expected, atol=1e-6)


def test_a_long_text_is_cut_at_the_maximum_and_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embedder = runtime.load(pooled_folder(tmp_path, "cls", max_position_embeddings=5), threads=1)
    assert isinstance(embedder, Embedder)
    embedder.embed(["the cat sat"])
    assert "Warning" not in capsys.readouterr().err
    for texts, sentence in (
        (["the cat sat on"], "The text is longer than the model's 5 tokens and was cut."),
        (
            ["the cat sat on", "the"],
            "1 of 2 texts is longer than the model's 5 tokens and was cut.",
        ),
        (["the cat sat on"] * 2, "2 of 2 texts are longer than the model's 5 tokens and were cut."),
    ):
        embedder.embed(texts)
        assert " ".join(capsys.readouterr().err.split()) == f"Warning: {sentence}"
    cut = embedder.tokenizer.encode(["the cat sat on"])[0]
    assert list(cut.ids) == [1, *ids_of("the cat sat")[1:4], 2]


def test_no_texts_give_no_embeddings(tmp_path: Path) -> None:
    model = runtime.load(encoder_folder(tmp_path), threads=1)
    assert model.embed([]).shape == (0, model.embed(["the cat"]).shape[1])
    assert model.embed([], precision="ubinary").shape == (0, 1)
    assert model.embed([], chunk=True).shape == model.embed([]).shape


def test_zero_vectors_stay_zero() -> None:
    assert not unit_length(np.zeros((2, 3))).any()


def test_a_classifier_gives_every_labels_probability(tmp_path: Path) -> None:
    classifier = runtime.load(classifier_folder(tmp_path), threads=1)
    heads = table(8, 3, seed=5)
    logits = np.array([table()[ids_of(text)].sum(axis=0) @ heads for text in TEXTS])
    expected = scipy.special.softmax(logits, axis=1)
    for prediction, row in zip(classifier.classify(TEXTS), expected, strict=True):
        assert list(prediction.probabilities) == ["bad", "good", "so-so"]
        np.testing.assert_allclose(list(prediction.probabilities.values()), row, atol=1e-5)
        assert prediction.label == ["bad", "good", "so-so"][row.argmax()]
        assert prediction.probability == prediction.probabilities[prediction.label]


def test_a_classifier_takes_pairs(tmp_path: Path) -> None:
    classifier = runtime.load(classifier_folder(tmp_path), threads=1)
    ids = [*ids_of("the cat"), *ids_of("a dog")[1:]]
    expected = table()[ids].sum(axis=0) @ table(8, 3, seed=5)
    np.testing.assert_allclose(classifier.logits([("the cat", "a dog")])[0], expected, atol=1e-5)


def test_labels_without_a_name_are_refused(tmp_path: Path) -> None:
    classifier_folder(tmp_path)
    config = {"architectures": ["XForSequenceClassification"], "id2label": {"0": "a", "2": "b"}}
    write_json(tmp_path / "config.json", config)
    with pytest.raises(UserError, match="every label's name"):
        runtime.load(tmp_path)


def greedy(prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(decoder_logits(ids)[-1].argmax()))
    return ids[len(prompt) :]


def generator(folder: Path, **config: Any) -> Generator:
    loaded = runtime.load(decoder_folder(folder, **config), threads=1)
    assert isinstance(loaded, Generator)
    return loaded


@pytest.mark.parametrize("shared", [False, True])
def test_the_cache_gives_what_the_whole_sequence_gives(tmp_path: Path, shared: bool) -> None:
    model = generator(tmp_path, shared=shared)
    for prompt in ([1], [1, 5, 6, 7], [9, 4]):
        assert list(model.generate_ids(prompt, Sampling(max_tokens=12))) == greedy(prompt, 12)
        np.testing.assert_allclose(model.logits(prompt), decoder_logits(prompt), atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_answers_read_in_turns_are_what_each_is_alone(
    tmp_path: Path, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_ROOM", 3)  # so that shared buffers grow several times
    model = generator(tmp_path, shared=shared)
    prompts = [[9, 4], [1, 5, 6, 7], [9, 4], [3] * 9]
    lengths = [8, 12, 3, 20]
    answers = [
        model.generate_ids(prompt, Sampling(max_tokens=count))
        for prompt, count in zip(prompts, lengths, strict=True)
    ]
    found: list[list[int]] = [[] for _ in answers]
    for turn in range(25):
        for place, answer in enumerate(answers):
            if (token := next(answer, None)) is not None:
                found[place].append(token)
            if turn == 4 and place == 1:
                model.logits([5, 6])  # whatever else is asked for in between
    assert found == [greedy(p, count) for p, count in zip(prompts, lengths, strict=True)]


@pytest.mark.parametrize("shared", [False, True])
def test_an_answer_that_is_given_up_keeps_no_memory_and_disturbs_no_other(
    tmp_path: Path, shared: bool
) -> None:
    model = generator(tmp_path, shared=shared)
    kept = model.generate_ids([9, 4], Sampling(max_tokens=12))
    found = [next(kept)]
    for count in range(1, 9):
        left = model.generate_ids([1, 5, 6, 7], Sampling(max_tokens=20))
        assert [next(left) for _ in range(count)] == greedy([1, 5, 6, 7], count)
        alive = weakref.ref(left.gi_frame.f_locals["reading"])  # type: ignore[attr-defined]
        assert alive() is not None
        del left
        assert alive() is None
        found.append(next(kept))
    assert [*found, *kept] == greedy([9, 4], 12)


def test_several_threads_may_read_answers_of_one_model(tmp_path: Path) -> None:
    model = generator(tmp_path, shared=True)
    prompts = [[token, other] for token in range(3, 9) for other in range(4, 8)]
    with ThreadPoolExecutor(6) as threads:
        found = list(
            threads.map(lambda p: list(model.generate_ids(p, Sampling(max_tokens=30))), prompts)
        )
    assert found == [greedy(prompt, 30) for prompt in prompts]


NULL: dict[str, Any] = {"eos_token_id": None}


@pytest.mark.parametrize(
    ("generation", "config", "tokens", "expected"),
    [
        ({"eos_token_id": [99, 6]}, {"eos_token_id": 0}, {"eos_token": "dog"}, {99, 6}),
        ({"eos_token_id": 0}, {"eos_token_id": 5}, {}, {0}),
        ({}, {"eos_token_id": [5, 7]}, {"eos_token": "dog"}, {5, 7}),
        (NULL, {"eos_token_id": 5}, {"eos_token": "dog"}, {5}),
        (NULL, NULL, {"eos_token": "dog"}, {6}),
        ({"eos_token_id": []}, {}, {"eos_token": {"content": "cat"}}, {5}),
        ({"eos_token_id": [None]}, NULL, {"eos_token": "[SEP]"}, {2}),
        ({"eos_token_id": "5"}, {"eos_token_id": -1}, {"eos_token": "[SEP]"}, {2}),
        ({"eos_token_id": True}, {}, {"eos_token": "[SEP]"}, {2}),
    ],
)
def test_the_end_is_what_the_settings_say_or_else_the_tokenizer(
    tmp_path: Path,
    generation: dict[str, Any],
    config: dict[str, Any],
    tokens: dict[str, Any],
    expected: set[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    decoder_folder(tmp_path, **config)
    write_json(tmp_path / "generation_config.json", generation)
    write_json(tmp_path / "tokenizer_config.json", tokens)
    assert runtime.load(tmp_path, 1).stop_ids == expected
    assert "Warning" not in capsys.readouterr().err


@pytest.mark.parametrize("tokens", [{}, {"eos_token": None}, {"eos_token": "no such token"}])
def test_a_model_without_an_end_is_said_to_be(
    tmp_path: Path, tokens: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    decoder_folder(tmp_path, eos_token_id=None)
    write_json(tmp_path / "tokenizer_config.json", tokens)
    model = runtime.load(tmp_path, 1)
    for _ in range(2):
        assert list(model.generate_ids([1, 5], Sampling(max_tokens=9))) == greedy([1, 5], 9)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("names no token that ends a text") == 1


def test_generation_stops_at_any_end_token(tmp_path: Path) -> None:
    all_of_it = greedy([1, 5], 12)
    end = all_of_it[3]
    for generation, tokens in [
        ({"eos_token_id": [99, end]}, {}),
        (NULL, {"eos_token": VOCABULARY[end]}),
    ]:
        decoder_folder(tmp_path, eos_token_id=None)
        write_json(tmp_path / "generation_config.json", generation)
        write_json(tmp_path / "tokenizer_config.json", tokens)
        found = list(runtime.load(tmp_path, 1).generate_ids([1, 5], Sampling(max_tokens=12)))
        assert found == all_of_it[: all_of_it.index(end)]


def test_generation_stops_at_the_models_maximum(tmp_path: Path) -> None:
    model = generator(tmp_path, max_position_embeddings=9)
    assert list(model.generate_ids([1, 5])) == greedy([1, 5], 7)
    for refused in (lambda: list(model.generate_ids([1] * 9)), lambda: model.complete("cat " * 9)):
        with pytest.raises(UserError, match="the model takes 9: shorten"):
            refused()
    with pytest.raises(UserError, match="prompt is empty"):
        list(model.generate_ids([]))
    assert len(model.logits([1] * 9)) == 9


LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))


def shares(sampling: Sampling, draws: int = 4000) -> np.ndarray:
    random = np.random.default_rng(sampling.seed)
    counts = Counter(choose(LOGITS, sampling, random) for _ in range(draws))
    return np.array([counts[index] / draws for index in range(len(LOGITS))])


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1), [0.5, 0.25, 0.15, 0.1]),
        (Sampling(temperature=1, top_p=0.7), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(temperature=1, top_p=0.01), [1, 0, 0, 0]),
        (Sampling(temperature=0), [1, 0, 0, 0]),
        (Sampling(temperature=0.5), np.array([0.25, 0.0625, 0.0225, 0.01]) / 0.345),
        (Sampling(temperature=1e-6), [1, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_with_the_probabilities_asked_for(
    sampling: Sampling, expected: list[float]
) -> None:
    # Four standard errors of a share of 4,000 draws.
    np.testing.assert_allclose(shares(sampling), expected, atol=4 * math.sqrt(0.25 / 4000))


def test_the_seed_decides(tmp_path: Path) -> None:
    model = generator(tmp_path)
    runs = [
        list(model.generate_ids([1, 5], Sampling(max_tokens=20, temperature=9, seed=seed)))
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


def byte_level_tokenizer(tmp_path: Path) -> Tokenizer:
    rust = RustTokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    rust.train_from_iterator(["the cat sat on the mat", "déjà vu", string.printable], trainer)
    decoder_folder(tmp_path)
    rust.save(str(tmp_path / "tokenizer.json"))
    from edgeprune.runtime.bundle import Bundle

    return Tokenizer(Bundle.open(tmp_path))


def test_streamed_pieces_make_the_whole_text(tmp_path_factory: pytest.TempPathFactory) -> None:
    tokenizer = byte_level_tokenizer(tmp_path_factory.mktemp("byte-level"))

    @settings(max_examples=80, deadline=None)
    @given(st.text())
    def check(text: str) -> None:
        pieces = list(stream_text(tokenizer, tokenizer.ids(text)))
        assert "".join(pieces) == text
        if "\ufffd" not in text:
            assert not any("\ufffd" in piece for piece in pieces)

    check()
    cut_short = tokenizer.ids("né")[:-1]
    assert "".join(stream_text(tokenizer, cut_short)) == tokenizer.text(cut_short)
    assert len(list(stream_text(tokenizer, tokenizer.ids("the cat sat")))) >= 3


def test_a_session_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    path = decoder_folder(tmp_path) / "model.onnx"
    with pytest.raises(UserError, match=r"needs ONNX Runtime 99\.1\.0 or newer"):
        open_session(path, minimum_onnxruntime="99.1.0")
    with pytest.raises(UserError, match=r"as 5 \(edgeprune\.json, minimum_onnxruntime\)"):
        open_session(path, minimum_onnxruntime=5)  # type: ignore[arg-type]
    open_session(path, 1, minimum_onnxruntime="1.9.9")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot open"):
        open_session(path)


@pytest.mark.parametrize(("usable", "asked", "threads"), [(4, None, 0), (3, None, 3), (3, 2, 2)])
def test_a_session_has_a_thread_for_each_core_that_may_be_used(
    usable, asked, threads, tmp_path, monkeypatch
):
    """0 is the runtime's own default, all cores."""
    monkeypatch.setattr(session, "all_cores", lambda: 4)
    monkeypatch.setattr(session, "usable_cores", lambda: usable)
    opened = open_session(encoder_folder(tmp_path) / "model.onnx", asked)
    assert opened.get_session_options().intra_op_num_threads == threads


def test_a_bundle_for_a_newer_runtime_is_refused(tmp_path: Path) -> None:
    folder = make_bundle(
        tmp_path / "b", encoder_folder(tmp_path / "p"), minimum_onnxruntime="99.0.0"
    )
    with pytest.raises(UserError, match="pip install -U onnxruntime"):
        runtime.load(folder)


def test_a_tokenizer_that_is_none_is_named(tmp_path: Path) -> None:
    decoder_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json is not a readable tokenizer"):
        runtime.load(tmp_path)


def test_greedy_text_is_transformers_own(tmp_path: Path) -> None:
    """A random Llama with grouped queries, exported plainly, against generate() in torch."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    trace = pytest.importorskip("edgeprune.export.trace")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    torch_folder, folder = tmp_path / "torch", tmp_path / "onnx"
    model.save_pretrained(torch_folder)
    decoder_folder(tmp_path / "assets")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (torch_folder / name).write_bytes((tmp_path / "assets" / name).read_bytes())
    trace.export_plain(torch_folder, folder)
    ours = runtime.load(folder, threads=1)
    assert isinstance(ours, Generator)
    for prompt in ([1], [4, 5, 6], [9, 9, 8, 7, 5, 4]):
        inputs = torch.tensor([prompt])
        mask = torch.ones_like(inputs)
        expected = model.generate(inputs, attention_mask=mask, max_new_tokens=16, do_sample=False)
        found = list(ours.generate_ids(prompt, Sampling(max_tokens=16)))
        assert found == [token for token in expected[0, len(prompt) :].tolist() if token != 2]
        logits = model(inputs).logits[0].detach().numpy()
        np.testing.assert_allclose(ours.logits(prompt), logits, atol=1e-4)


def test_the_device_side_imports_nothing_of_the_build(tmp_path: Path) -> None:
    modules = [
        "cli",
        "runtime.bundle",
        "measure.inspect",
        "runtime.terminal",
        "measure.bench.compare",
        "measure.bench.table",
        "measure.bench.worker",
        "measure.evaluate.table",
        "measure.evaluate.measures",
        *(each.function.split(":")[0].removeprefix("edgeprune.") for each in MEASURES.values()),
    ]
    code = f"""
import sys
for name in {modules}:
    __import__("edgeprune." + name)
heavy = {{"torch", "transformers", "optimum", "safetensors", "scipy"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
