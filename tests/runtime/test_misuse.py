"""Arguments, options and manifests that are wrong for a bundle: refused in a sentence."""

import json
import shutil

import pytest
from click.testing import CliRunner
from paired_models import pair_folder
from question_models import answerer_folder
from tiny_builds import model_folder, text_file

import edgeprune
from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.export.opened import open_model
from edgeprune.model.tasks import TASKS
from edgeprune.runtime.bundle import FORMAT_VERSION, MANIFEST, Bundle

MAKERS = {
    "text-classification": pair_folder,
    "multi-label-classification": lambda folder: pair_folder(
        folder, problem_type="multi_label_classification"
    ),
    "text-ranking": lambda folder: pair_folder(folder, labels=1),
    "fill-mask": lambda folder: model_folder(folder, "bert-filler"),
    "question-answering": answerer_folder,
    "feature-extraction": lambda folder: model_folder(folder, "bert"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each task with an ONNX graph, by the task's name."""
    found = {}
    for name, make in MAKERS.items():
        place = tmp_path_factory.mktemp(name)
        make(place / "hf")
        with open_model(place / "hf") as bundle:
            found[name] = shutil.copytree(bundle.folder, place / "onnx")
    return found


CALLS = [
    ("text-classification", lambda m: m.classify("w001"), "are given as a list"),
    ("text-classification", lambda m: m.classify([None]), "Text 1 must be a text or a pair"),
    ("text-classification", lambda m: m.classify(["a", ("a", "b", "c")]), "Text 2 must be a text"),
    ("text-classification", lambda m: m.classify(["\ud800"]), "unpaired surrogate"),
    (
        "text-classification",
        lambda m: m.classify(["a", "b"], -1),
        "batch_size must be at least 1 and whole",
    ),
    ("text-classification", lambda m: m.zero_shot("w001", ["a"]), "are given as a list"),
    ("text-classification", lambda m: m.zero_shot(["w001"], "abc"), "Labels are given as a list"),
    ("text-classification", lambda m: m.zero_shot(["w001"], [1]), "empty, each a text"),
    ("text-classification", lambda m: m.zero_shot([("a", "b")], ["c"]), "give single texts"),
    ("text-ranking", lambda m: m.rank("w001", "w002"), "Documents are given as a list"),
    ("text-ranking", lambda m: m.rank("w001", [3]), "must be a text or a pair"),
    ("fill-mask", lambda m: m.fill(["[MASK]"], targets="w001"), "Words that may fill are given"),
    ("fill-mask", lambda m: m.fill(["[MASK]"], targets=[3]), "is a text, and 3 is none"),
    ("fill-mask", lambda m: m.fill(["[MASK]"], top_k=1.5), "top_k must be at least 1 and whole"),
    ("question-answering", lambda m: m.answer([(None, "w001")]), "Text 1 must be a text"),
    ("question-answering", lambda m: m.answer([{"question": "w001"}]), "Text 1 must be a text"),
    (
        "question-answering",
        lambda m: m.answer([("a", "b")], top_k="3"),
        "top_k must be at least 1 and whole",
    ),
    ("feature-extraction", lambda m: m.embed("w001"), "are given as a list"),
    ("feature-extraction", lambda m: m.embed("w001", chunk=True), "are given as a list"),
]


@pytest.mark.parametrize(("task", "call", "sentence"), CALLS, ids=range(len(CALLS)))
def test_a_wrong_argument_is_refused(task, call, sentence, folders):
    with pytest.raises(UserError, match=sentence):
        call(edgeprune.load(folders[task], threads=1))


def test_any_number_of_answers_may_be_asked_for(folders):
    model = edgeprune.load(folders["question-answering"], threads=1)
    pair = ("w001", "w002 w003")
    [found] = model.answer([pair], top_k=10**20, max_answer_len=10**20)
    assert [found] == model.answer([pair], top_k=99, max_answer_len=99)
    assert len(found) == 3


@pytest.mark.parametrize("template", ["{:>99} x", "{0.__class__}", "{0}", "no place", "{} {}"])
def test_a_hypothesis_is_no_format(template, folders):
    """Fields of `str.format` reach into objects, and write as many spaces as they are told to."""
    model = edgeprune.load(folders["text-classification"], threads=1)
    with pytest.raises(UserError, match="has no place for a label"):
        model.zero_shot(["w001"], ["w002"], template)


@pytest.mark.parametrize("true", MAKERS)
def test_a_manifest_of_another_task_is_refused(true, folders, tmp_path):
    """Each would have been answered, by the wrong scores."""
    folder = shutil.copytree(folders[true], tmp_path / "bundle")
    for task in TASKS:
        manifest = {"format_version": FORMAT_VERSION, "task": task, "files": {}}
        (folder / MANIFEST).write_text(json.dumps(manifest))
        if task == true:
            assert Bundle.open(folder).task == true
            continue
        with pytest.raises(UserError, match=f"does {task}, and its graph .* are of {true}"):
            edgeprune.load(folder)


OPTIONS = [
    ("text-classification", ["--labels", ","], "names no label"),
    ("text-ranking", ["--pair", "a", "--documents", "{texts}"], "leave --pair out"),
    ("text-classification", ["--temperature", "2"], "knows no --temperature"),
    ("question-answering", ["--pair", "a", "--max-tokens", "3"], "knows no --max-tokens"),
    ("feature-extraction", ["--raw"], "knows no --raw"),
]


@pytest.mark.parametrize(("task", "options", "sentence"), OPTIONS)
def test_an_option_that_would_be_ignored_is_refused(task, options, sentence, folders, tmp_path):
    texts = str(text_file(tmp_path / "texts.txt"))
    given = [option.format(texts=texts) for option in options]
    result = CliRunner().invoke(main, ["run", str(folders[task]), "w001", *given])
    assert (result.exit_code, sentence in result.output) == (2, True), result.output


def test_pairs_in_rows_are_not_read_as_single_texts(folders, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"premise": "w001", "hypothesis": "w002"}')
    words = ["run", str(folders["feature-extraction"]), "--input", str(rows)]
    refused = CliRunner().invoke(main, words)
    assert (refused.exit_code, "--field text=NAME" in refused.output) == (2, True)
    result = CliRunner().invoke(main, [*words, "--field", "text=premise"])
    assert result.exit_code == 0, result.output
