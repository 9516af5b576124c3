"""Limit the log lines that clients can cause: the first of each kind, then counts."""

import logging
from collections import Counter

LOGGERS = ("uvicorn.error", "asyncio")


class Seldom(logging.Filter):
    """Passes the first record of a kind and counts the others until `tell` logs the counts.

    A kind is the logging line of code and the type of the error, so there are few.
    """

    def __init__(self) -> None:
        super().__init__()
        self._first: dict[tuple[str, int, str], logging.LogRecord] = {}
        self._more: Counter[tuple[str, int, str]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[0] if record.exc_info else None
        kind = (record.pathname, record.lineno, error.__name__ if error else "")
        if kind not in self._first:
            self._first[kind] = record
            return True
        self._more[kind] += 1
        return False

    async def tell(self) -> None:
        """Log the count of each kind, and start over."""
        first, more = self._first, self._more
        self._first, self._more = {}, Counter()
        for kind, count in more.items():
            logger, said = logging.getLogger(first[kind].name), first[kind].getMessage().strip()
            # Not by `logger.log`, which would apply this filter.
            logger.callHandlers(
                logger.makeRecord(
                    logger.name, first[kind].levelno, *kind[:2], "%s (%d more times)",
                    (said, count), None,
                )
            )  # fmt: skip
