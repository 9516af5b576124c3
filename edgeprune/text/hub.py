"""Rows of a Hugging Face dataset, by name. Needs the build install."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.base.errors import UserError, reason
from edgeprune.base.install import install

if TYPE_CHECKING:
    from datasets import Dataset


def load_hub(name: str, splits: Sequence[str]) -> tuple[str, "Dataset"]:
    """A dataset's split, and its full name.

    Args:
        name: NAME, NAME:SPLIT or NAME:CONFIGURATION:SPLIT.
        splits: in order of preference, where the name gives none.

    Raises:
        UserError: the name is a path that does not exist, the build install is missing, or the
            dataset cannot be loaded or has none of the splits.
    """
    repository, *rest = name.split(":")
    path_like = repository.startswith((".", "/", "~")) or Path(repository).suffix
    if repository.count("/") > 1 or path_like or len(rest) > 2:
        raise UserError(f"There is no file or folder {name}.")
    try:
        from datasets import get_dataset_split_names, load_dataset
    except ImportError:
        raise UserError(
            f"There is no file or folder {name}, and Hugging Face datasets need {install('build')}."
        ) from None
    configuration = rest[0] if len(rest) == 2 else None
    try:
        offered = rest[-1:] or get_dataset_split_names(repository, configuration)
        split = next((each for each in (rest[-1:] or splits) if each in offered), None)
        if split is not None:
            rows = load_dataset(repository, configuration, split=split)
            return ":".join([repository, *rest[:-1], split]), rows
    except Exception as error:  # the library raises whatever its backends do
        raise UserError(
            f"There is no file {name!r}, and it could not be loaded as a dataset: {reason(error)}"
        ) from None
    raise UserError(
        f"The dataset {repository} has the splits {', '.join(offered)}: name one of them, "
        f"{repository}:{offered[0]}."
    )
