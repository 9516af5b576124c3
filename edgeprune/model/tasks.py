"""One list of tasks: what differs between them, as data."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from edgeprune.base.errors import UserError
from edgeprune.model.families import FAMILIES

_OTHER_HEADS = ("ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")


def task_of(config: Mapping[str, Any]) -> str:
    """The pipeline task of a configuration, by the ending of its architecture's class.

    Raises:
        UserError: its head is of a kind that would be lost.
    """
    architecture = (config.get("architectures") or [""])[0]
    if architecture.endswith(_OTHER_HEADS):
        raise UserError(
            f"{architecture} has a head that EdgePrune does not run: it takes sentence encoders, "
            "classifiers of whole texts (ForSequenceClassification) and decoders (ForCausalLM)."
        )
    if architecture.endswith("ForSequenceClassification"):
        return "text-classification"
    kinds = {name: family.kind for family in FAMILIES for name in family.model_types}
    if kinds.get(str(config.get("model_type"))) == "decoder":
        if architecture.endswith(("ForCausalLM", "LMHeadModel")):
            return "text-generation"
    elif architecture.endswith("ForCausalLM"):
        raise UserError(
            f"{architecture} writes text with an encoder's layers, which EdgePrune does not run."
        )
    return "feature-extraction"


_KINDS = {
    "feature-extraction": "sentences",
    "text-classification": "labelled",
    "text-generation": "windows",
}


def text_kind(task: str) -> str:
    """How text is read for a task: sentences, labelled rows, or windows."""
    return _KINDS[task]


Task = Literal["feature-extraction", "text-classification", "text-generation"]


TASKS: tuple[str, ...] = get_args(Task)
