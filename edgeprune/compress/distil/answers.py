"""A teacher's answers to texts, kept on disk for every training on the same texts.

A file is a hash table of rows of float16, one a text, found by a hash of the text's tokens: views
and fragments of sentences are texts of their own. It is of one teacher; its size is fixed when it
is made, and disk is taken as rows are written. Several processes may read and write at once: each
row carries a checksum, so that one half written, by a race or a lost machine, is no row. Where
there is no room left near a row's place it is not kept, and computed again when it is needed.
"""

import hashlib
import json
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgeprune.base.errors import UserError
from edgeprune.compress.objectives.objective import Objective
from edgeprune.model.model import Model
from edgeprune.text.batches import Batch

_HEAD = 4096
"""Bytes before the rows: what the file is, as JSON."""
_PLACES = 8
"""Rows next to each other in which a text may stand."""
_TOGETHER = 8
"""Texts are computed in multiples of these: the matrix library is slow at ever new shapes."""

_READ = {".safetensors", ".bin", ".json", ".txt", ".model"}
"""Endings of the files that make a model answer as it does."""


class Answers:
    """The answers of a teacher to the texts of batches, computed once each."""

    def __init__(self, folder: Path, teacher: Model, objective: Objective, megabytes: int) -> None:
        """folder: it may be shared by trainings. megabytes: the file's largest size."""
        self._folder, self._teacher, self._objective = folder, teacher, objective
        self._bytes = megabytes * 1_000_000
        self._rows: np.memmap | None = None
        self.computed = 0
        """Texts that were not found."""

    def of(self, batch: Batch) -> Tensor:
        """`objective.wanted` of the teacher's output [texts, width], in float32 of float16's
        precision."""
        hashes = [_hash(batch, row) for row in range(len(batch.input_ids))]
        if self._rows is None:
            found, missing = self._compute(batch), np.arange(len(hashes))
            self._rows = self._opened(found.shape[1])
        else:
            found, there = self._read(self._rows, hashes)
            missing = np.flatnonzero(~there)
            if len(missing):  # some twice, to be a multiple
                several = np.resize(missing, -(-len(missing) // _TOGETHER) * _TOGETHER)
                found[missing] = self._compute(_some(batch, several))[: len(missing)]
        self._write(self._rows, [hashes[text] for text in missing], found[missing])
        return torch.from_numpy(found).float()

    def _compute(self, batch: Batch) -> np.ndarray:
        self.computed += len(batch.input_ids)
        with torch.no_grad():
            wanted = self._objective.wanted(self._teacher.run(batch), batch)
        return wanted.float().numpy().astype(np.float16)

    def _opened(self, width: int) -> np.memmap:
        """The rows of the file of this teacher; a damaged or foreign one is replaced.

        Raises:
            UserError: the folder cannot be written.
        """
        kind = np.dtype([("key", "<u8"), ("check", "<u4"), ("values", "<f2", (width,))])
        count = max(_PLACES, (self._bytes - _HEAD) // kind.itemsize)
        autocast = torch.is_autocast_enabled("cpu")
        head = {
            "edgeprune": "answers 1",
            "teacher": _digest(self._teacher.folder),
            "objective": type(self._objective).__name__,
            "precision": str(torch.get_autocast_dtype("cpu")) if autocast else "float32",
            "width": width,
            "rows": count,
        }
        text = json.dumps(head).encode().ljust(_HEAD)
        name = hashlib.sha256(text).hexdigest()[:16]
        file, size = self._folder / f"{name}.answers", _HEAD + count * kind.itemsize
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not _whole(file, text, size):
                aside = self._folder / f".{name}.{os.getpid()}"
                with aside.open("wb") as new:
                    new.write(text)
                    new.truncate(size)
                aside.replace(file)
            return np.memmap(file, kind, "r+", _HEAD, (count,))
        except OSError as error:
            raise UserError(
                f"The original's answers cannot be kept in {self._folder} ({error.strerror}): set "
                "answers to a folder of yours, or answers_megabytes to 0."
            ) from None

    @staticmethod
    def _read(rows: np.memmap, hashes: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Values [texts, width], and of which texts they are there [texts]."""
        keys = np.array([key for key, _ in hashes], np.uint64)
        starts = np.array([place % (len(rows) - _PLACES + 1) for _, place in hashes])
        places = starts[:, None] + np.arange(_PLACES)
        same = rows["key"][places] == keys[:, None]
        chosen = rows[places[np.arange(len(keys)), same.argmax(1)]]
        values = chosen["values"].copy()
        there = same.any(1)
        for text in np.flatnonzero(there):
            there[text] = chosen["check"][text] == _checksum(hashes[text][0], values[text])
        return values, there

    @staticmethod
    def _write(rows: np.memmap, hashes: list[tuple[int, int]], values: np.ndarray) -> None:
        for (key, place), own in zip(hashes, values, strict=True):
            start = place % (len(rows) - _PLACES + 1)
            there = rows["key"][start : start + _PLACES]
            free = np.flatnonzero((there == key) | (there == 0))
            if len(free):
                rows[start + free[0]] = (key, _checksum(key, own), own)


def _hash(batch: Batch, row: int) -> tuple[int, int]:
    """Two numbers of a text's tokens; the first is not 0, which marks free rows."""
    real = batch.attention_mask[row] == 1
    content = np.ascontiguousarray(batch.input_ids[row][real]).tobytes()
    if batch.token_type_ids is not None and (types := batch.token_type_ids[row][real]).any():
        content += b"types" + np.ascontiguousarray(types).tobytes()
    found = hashlib.blake2b(content, digest_size=16).digest()
    return int.from_bytes(found[:8], "little") or 1, int.from_bytes(found[8:], "little")


def _checksum(key: int, values: np.ndarray) -> int:
    """Never that of a row of zeros, which a lost disk leaves."""
    return zlib.crc32(values.tobytes(), key & 0xFFFFFFFF) or 1


def _some(batch: Batch, rows: np.ndarray) -> Batch:
    """Texts of a batch."""
    types = None if batch.token_type_ids is None else batch.token_type_ids[rows]
    return Batch(batch.input_ids[rows], batch.attention_mask[rows], None, types)


def _whole(file: Path, head: bytes, size: int) -> bool:
    if not file.is_file() or file.stat().st_size != size:
        return False
    with file.open("rb") as there:
        return there.read(_HEAD) == head


def _digest(folder: Path) -> str:
    """A hash of a model's folder: weights, tokenizer and settings."""
    content = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in _READ and file.name != "stage.json":
            content.update(file.relative_to(folder).as_posix().encode())
            with file.open("rb") as opened:
                content.update(hashlib.file_digest(opened, "sha256").digest())
    return content.hexdigest()
