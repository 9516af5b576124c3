"""The journal of a search: what was decided and found, in order, each once.

A search that is started again takes from here what it had, and so decides again what it decided:
every decision is a function of the request and of what the journal holds.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from edgeprune.base.files import read_json, replace_file

Value = TypeVar("Value")


class Journal:
    """Entries by name in a JSON file that is written whole after each.

    Attributes:
        file: of one request; another has another.
    """

    def __init__(self, file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds from any moment on."""
        self.file = file
        self._clock = clock
        found = read_json(file) if file.is_file() else {}
        self._entries: dict[str, Any] = found.get("entries", {})
        self._took: dict[str, float] = found.get("took", {})
        self._earlier = float(found.get("seconds", 0.0))
        self._started = clock()

    @property
    def seconds(self) -> float:
        """Seconds that the search has taken, over all its sessions; of one that was killed, up to
        its last entry."""
        return self._earlier + self._clock() - self._started

    def took(self, name: str) -> float:
        """Seconds in which an entry was made."""
        return self._took[name]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def once(
        self,
        name: str,
        make: Callable[[], Value],
        write: Callable[[Value], Any] = lambda value: value,
        read: Callable[[Any], Value] = lambda value: value,
    ) -> Value:
        """The entry of a name, made where there is none.

        Args:
            write, read: the value as plain JSON values, and back.
        """
        if name not in self._entries:
            began = self.seconds
            value = make()
            self._entries[name], self._took[name] = write(value), self.seconds - began
            content = {"seconds": self.seconds, "took": self._took, "entries": self._entries}
            replace_file(self.file, json.dumps(content, indent=1) + "\n")
            return value
        return read(self._entries[name])

    def once_there(
        self,
        name: str,
        make: Callable[[], Value | None],
        write: Callable[[Value], Any] = lambda value: value,
        read: Callable[[Any], Value] = lambda value: value,
    ) -> Value | None:
        """The same of what may not be there yet: None is no entry, and is asked for again."""
        if name in self._entries:
            return read(self._entries[name])
        value = make()
        return None if value is None else self.once(name, lambda: value, write, read)
