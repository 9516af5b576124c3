"""The row of the vocabulary stage, by which tokens leave the tokenizer and the tables."""

from pathlib import Path

from edgeprune.base.files import read_json
from edgeprune.compress.context import Context
from edgeprune.compress.cut.tokenizer import vocabulary
from edgeprune.compress.cut.vocabulary_record import Trimmed, told
from edgeprune.compress.cut.vocabulary_settings import VocabularySettings
from edgeprune.compress.facts import Facts
from edgeprune.compress.stage import Stage
from edgeprune.text.tokenizer_file import open_tokenizer


def refuse_untrimmable(assets: Path) -> None:
    """Refuse a tokenizer that cannot be trimmed.

    Args:
        assets: the folder that holds it.

    Raises:
        UserError: naming its kind, or what is wrong with its file.
    """
    file = assets / "tokenizer.json"
    if file.exists():
        open_tokenizer(file)
        vocabulary(read_json(file))


def _refuse(settings: VocabularySettings, facts: Facts) -> None:
    refuse_untrimmable(facts.checkpoint.assets)


def _would(settings: VocabularySettings, facts: Facts) -> list[str]:
    """Which tokens would stay; how many, only the text's tokens can tell."""
    rows, width = facts.anatomy.shape(facts.anatomy.embeddings["word"])
    times = f"{settings.min_count} times or more" if settings.min_count > 1 else "at all"
    texts = " and ".join(["the text", *settings.data])
    return [f"of {rows:,} tokens of {width} weights those stay that {texts} use {times}"]


def _reads(settings: VocabularySettings, context: Context) -> list[str]:
    further = context.text.vocabulary
    return [further.digest] if further else []


VOCABULARY = Stage(
    "vocabulary",
    "edgeprune.compress.cut.vocabulary:run",
    Trimmed,
    settings=VocabularySettings,
    default=VocabularySettings,
    description="Removal of the tokens that the text does not use.",
    gives="reference",
    refuse=_refuse,
    would=_would,
    leaves=lambda settings, facts: facts.and_smaller("the vocabulary's rows that leave"),
    told=told,
    reads=_reads,
)
