"""Keep other libraries' notes and progress bars off the user's terminal."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

_TALKATIVE = ("transformers", "torch.onnx", "torch.export", "onnxscript")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress whatever libraries print and warn about; exceptions pass."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
