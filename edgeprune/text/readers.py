"""One reader for each form in which a task takes its text.

Sentences train an encoder's embeddings, labelled texts a classifier, tagged words a classifier of
tokens, questions what marks their answers, masked texts what fills them in, and windows of the
running text a decoder.
"""

from edgeprune.text.labelled_readers import LabelledReader, QuestionReader, TaggedReader
from edgeprune.text.plain_readers import MaskedReader, SentenceReader, WindowReader
from edgeprune.text.reader import Reader

READERS: dict[str, type[Reader]] = {
    "sentences": SentenceReader,
    "labelled": LabelledReader,
    "multi-labelled": LabelledReader,
    "scored": LabelledReader,
    "tagged": TaggedReader,
    "asked": QuestionReader,
    "masked": MaskedReader,
    "windows": WindowReader,
}
"""By the form in which a task takes its text."""
