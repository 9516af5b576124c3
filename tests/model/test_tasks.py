"""The rows of tasks: what each names is there, and no other file asks for a task by its name."""

import ast
from collections import Counter
from importlib.util import find_spec

import pytest
import transformers
from on_device import FILES, ROOT
from tiny_models import make_model
from transformers.pipelines import PIPELINE_REGISTRY

from edgeprune.base.errors import UserError
from edgeprune.base.registry import load_function
from edgeprune.measure.evaluate.measures import MEASURES
from edgeprune.measure.works import WORKS
from edgeprune.model.tasks import TASKS, task_doing, task_of, task_of_graph
from edgeprune.pipeline.measure.stage import BUILD_MEASURES
from edgeprune.report.layout import environment
from edgeprune.text.truth import FORMS

OF_VERSION_4 = {"question-answering"}
"""Pipelines that transformers 5 no longer has, and the hub's models are still named for."""
ROWS = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@ROWS
def test_what_a_row_names_is_there(task):
    assert isinstance(load_function(task.runtime), type)
    assert callable(load_function(task.terminal))
    assert isinstance(load_function(task.service), type)
    assert set(task.works) <= set(WORKS)
    assert set(task.measures) <= set(MEASURES)
    assert set(task.build_measures.values()) <= set(BUILD_MEASURES)
    shown = (
        environment(str)
        .get_template(task.card)
        .render(sentence_transformers=True, chat=True, prompts="query", around_pairs=True)
    )
    assert "edgeprune.load(folder)" in shown


@ROWS
def test_a_row_names_its_objectives_file(task):
    assert find_spec(task.objective)


@ROWS
def test_others_know_a_row_s_names(task):
    assert callable(getattr(transformers, task.loader).from_pretrained)
    # The hub has rerankers, and transformers runs them as classifiers.
    known = {*PIPELINE_REGISTRY.get_supported_tasks(), "text-ranking", *OF_VERSION_4}
    assert (task.tag or task.name) in known


@ROWS
def test_a_row_agrees_with_itself(task):
    assert set(task.held_out) <= set(task.measures)
    assert task.held_out
    assert (task.logits_axes > 0) == (task.outputs == ("logits",))
    assert (task.outputs == ("last_hidden_state",)) == (task.head is None)
    assert (len(task.outputs) == 2) == (task.head == "span")
    assert task.generates == ("decode" in task.works)
    assert not (task.pools and task.head)
    assert (task.head in ("labels", "span")) == (task.reads in FORMS)


def test_rows_are_told_apart():
    assert Counter(task.path for task in TASKS.values()).most_common(1)[0][1] == 1
    assert [task.name for task in TASKS.values() if not task.classes] == ["feature-extraction"]
    endings = [(ending, task.problem) for task in TASKS.values() for ending in task.classes]
    assert len(endings) == len(set(endings))
    assert {name for task in TASKS.values() for name in task.measures} == set(MEASURES)
    used = {name for task in TASKS.values() for name in task.build_measures.values()}
    assert used == set(BUILD_MEASURES)


@pytest.mark.parametrize(
    ("architecture", "model_type", "name"),
    [
        ("BertModel", "bert", "feature-extraction"),
        ("BertForMaskedLM", "bert", "fill-mask"),
        ("XLMRobertaForQuestionAnswering", "xlm-roberta", "question-answering"),
        ("ElectraForPreTraining", "electra", "feature-extraction"),
        ("LlamaModel", "llama", "feature-extraction"),
        ("RobertaForSequenceClassification", "roberta", "text-classification"),
        ("LlamaForSequenceClassification", "llama", "text-classification"),
        ("MPNetForTokenClassification", "mpnet", "token-classification"),
        ("GPT2LMHeadModel", "gpt2", "text-generation"),
        ("LlamaForCausalLM", "llama", "text-generation"),
    ],
)
def test_a_task_is_read_off_the_architectures_class(architecture, model_type, name):
    assert task_of({"architectures": [architecture], "model_type": model_type}).name == name


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "text-classification"),
        ({"id2label": {"0": "a"}}, "text-ranking"),
        ({"num_labels": 1, "problem_type": "single_label_classification"}, "text-ranking"),
        ({"num_labels": 1, "problem_type": "regression"}, "text-ranking"),
        ({"problem_type": "single_label_classification"}, "text-classification"),
        ({"problem_type": "multi_label_classification"}, "multi-label-classification"),
    ],
)
def test_tasks_of_one_class_are_told_apart_by_their_labels(settings, name):
    config = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"} | settings
    assert task_of(config).name == name
    found = task_of_graph({"logits": 2}, config)
    assert found is TASKS[name]


@pytest.mark.parametrize(
    ("kind", "told"),
    [("regression", "a regression of 2 values"), ("ordinal", "problem_type: ordinal, which is no")],
)
def test_other_kinds_of_labels_are_refused(kind, told):
    with pytest.raises(UserError, match=told):
        task_of({"architectures": ["XForSequenceClassification"], "problem_type": kind})


def test_a_configuration_without_a_class_is_of_the_bare_model():
    assert task_of({"model_type": "bert"}).pools


@pytest.mark.parametrize(
    ("architecture", "told"),
    [
        ("BertForMultipleChoice", "has a head that EdgePrune does not run: it takes sentence"),
        ("BertForMultipleChoice", r"\(ForMaskedLM\) and decoders \(ForCausalLM\)"),
        ("BertForMultipleChoice", "BertForMultipleChoice has a head"),
        ("MistralForTokenClassification", "answers for each token with a decoder's"),
        ("RobertaForCausalLM", "writes text with an encoder's layers"),
        ("BertLMHeadModel", "writes text with an encoder's layers"),
    ],
)
def test_a_head_that_would_be_lost_is_refused(architecture, told):
    family = "mistral" if architecture.startswith("Mistral") else "bert"
    with pytest.raises(UserError, match=told):
        task_of({"architectures": [architecture], "model_type": family})


@pytest.mark.parametrize(
    ("outputs", "architectures", "name"),
    [
        ({"logits": 3, "present.0.key": 4}, "", "text-generation"),
        ({"last_hidden_state": 3}, "", "feature-extraction"),
        ({"logits": 2}, "", "text-classification"),
        ({"logits": 3}, "", None),
        ({"logits": None}, "", None),
        ({"logits": 3}, "GPT2LMHeadModel", "text-generation"),
        ({"logits": 3}, "BertForTokenClassification", "token-classification"),
        ({"logits": 3}, "BertForMaskedLM", "fill-mask"),
        ({"start_logits": 2, "end_logits": 2}, "", "question-answering"),
    ],
)
def test_a_graph_without_a_manifest_is_known_by_its_outputs(outputs, architectures, name):
    found = task_of_graph(outputs, {"architectures": [architectures]})
    assert (found.name if found else None) == name


def test_work_tells_a_task_that_alone_does_it():
    assert task_doing(("encoder",)) is None
    assert task_doing(("prompt",)) is TASKS["text-generation"]
    assert task_doing(("prompt", "decode")) is TASKS["text-generation"]


@pytest.mark.parametrize("family", ["bert", "classifier", "bert-filler", "llama", "gpt2"])
def test_a_model_has_what_its_row_says(family, tmp_path):
    model = make_model(family, tmp_path)
    task, anatomy = TASKS[model.task], model.anatomy
    assert (anatomy.head is not None) == (task.head == "vocabulary")
    assert bool(anatomy.head_linears) == (task.head is not None)
    assert anatomy.has_cache == anatomy.causal == task.generates == anatomy.generates
    heads = [block.attention.num_heads for block in anatomy.blocks]
    groups = [block.attention.num_key_value_heads for block in anatomy.blocks]
    shared = groups if anatomy.shared_key_value_heads else [1] * len(groups)
    assert anatomy.head_units == [h // g for h, g in zip(heads, shared, strict=True)]


# The law ---------------------------------------------------------------------------------------

LISTS = {"model/tasks.py", "model/families.py"}
KINDS = {"encoder", "decoder"}


def named(code: str) -> list[str]:
    """Where code says a task's name, or compares a model's kind: what it says, in order.

    "encoder" is also a recipe, a kind of timed work and a verb of the benchmark's protocol; these
    are said, and no model's kind is compared with them.
    """
    tree = ast.parse(code)
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    found = [text.value for text in texts if text.value in TASKS]
    for node in ast.walk(tree):
        inner: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            inner = [node.left, *node.comparators]
        elif isinstance(node, ast.match_case):
            inner = [node.pattern]
        elif isinstance(node, ast.IfExp):
            inner = [node.body, node.orelse]
        parts = [part for each in inner for part in ast.walk(each)]
        found += [p.value for p in parts if isinstance(p, ast.Constant) and p.value in KINDS]
    return found


def test_no_other_file_asks_for_a_task_by_its_name_or_a_models_kind():
    places = {file.relative_to(ROOT).as_posix(): file for file in FILES}
    asking = {place for place, file in places.items() if named(file.read_text(encoding="utf-8"))}
    assert asking >= LISTS - {"model/families.py"}
    assert sorted(asking - LISTS) == []


def test_the_search_for_names_finds_them():
    assert named("if model.task == 'text-generation': pass") == ["text-generation"]
    assert named("x = {'feature-extraction': 1}") == ["feature-extraction"]
    assert named("f(task in ('encoder', 'prompt'))") == ["encoder"]
    assert named("kind = 'decoder' if causal else 'encoder'") == ["decoder", "encoder"]
    assert named("match kind:\n    case 'decoder': pass") == ["decoder"]
    assert named("DEFAULT = 'encoder'\ncommands = {'encoder': run}") == []


def test_one_table_has_the_words_for_timed_work():
    """But for the protocol's verbs, which its own processes answer to."""
    speaking = set()
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            keys = node.keys if isinstance(node, ast.Dict) else []
            if "encoder" in [key.value for key in keys if isinstance(key, ast.Constant)]:
                speaking.add(file.relative_to(ROOT).as_posix())
    workers = {"measure/bench/worker.py", "measure/bench/torch_worker.py"}
    assert speaking == {"measure/works.py", *workers}
