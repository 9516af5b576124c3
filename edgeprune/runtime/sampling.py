"""The choice of the next token: penalties, then temperature, then the likeliest, then a draw.

The order and the rules are those of transformers' logits processors; the penalties of frequency and
presence, which it has not, are OpenAI's. Only the few tokens that may follow are computed in
float64: a vocabulary has 50,000 and more, and a step of a small model takes milliseconds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from edgeprune.base.errors import UserError
from edgeprune.base.settings import Settings
from edgeprune.runtime.logits import likeliest

# The likeliest tokens among which those that reach top_p are looked for first; then eightfold.
_FIRST, _MORE = 64, 8
# Rows in which the weights of a whole vocabulary are laid to draw one of them.
_ROWS = 64


class Sampling(Settings):
    """The choice of the next token, and when to stop."""

    max_tokens: int = Field(default=256, ge=1, description="most tokens to generate")
    temperature: float = Field(
        default=0.0,
        ge=0.0,
        le=100.0,
        description="0 takes the likeliest token; higher is more random",
    )
    top_k: int = Field(
        default=0, ge=0, description="sample from so many of the likeliest tokens; 0: from all"
    )
    top_p: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="sample from the likeliest tokens of this total only",
    )
    min_p: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="sample from tokens of this share of the likeliest one's probability only",
    )
    repetition_penalty: float = Field(
        default=1.0,
        gt=0.0,
        description="divides the score of every token of the prompt or the answer; 1: none",
    )
    frequency_penalty: float = Field(
        default=0.0,
        ge=-2.0,
        le=2.0,
        description="taken from a token's score each time that it is in the answer",
    )
    presence_penalty: float = Field(
        default=0.0,
        ge=-2.0,
        le=2.0,
        description="taken once from the score of every token of the answer",
    )
    logit_bias: dict[int, float] = Field(
        default={}, description="added to the scores of tokens, by their ids"
    )
    stop: tuple[str, ...] = Field(
        default=(), description="texts before which the answer ends", max_length=16
    )
    seed: int = Field(default=0, ge=0, description="the same seed gives the same text")
    lookup: Literal["auto", "off"] = Field(
        default="auto",
        description="auto reads what repeats the prompt or the answer several tokens at a time, "
        "where the graph gives the same text by it",
    )


def own_sampling(stated: Mapping[str, Any], given: Sampling | None, source: object) -> Sampling:
    """The settings of generation_config.json under those that were given.

    Args:
        stated: its contents; the likeliest token is taken unless they have do_sample.
        source: the file, for an error.

    Raises:
        UserError: a value in it is not one.
    """
    names = ["repetition_penalty"]
    own: dict[str, Any] = {}
    if stated.get("do_sample"):
        own["temperature"] = 1.0
        names += ["temperature", "top_k", "top_p", "min_p"]
    own |= {name: stated[name] for name in names if stated.get(name) is not None}
    chosen = given.model_dump(include=given.model_fields_set) if given else {}
    try:
        return Sampling(**{**own, **chosen})
    except ValidationError as error:
        [name] = error.errors()[0]["loc"][:1]
        told = error.errors()[0]["msg"]
        raise UserError(f"{source}: {name} is {own.get(str(name))!r}: {told}.") from None


class NotFinite(ArithmeticError):
    """No token is the likeliest."""


class Sampler:
    """The choices of one text, by what came before."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._sampling, self._prompt = sampling, prompt
        self._random = np.random.default_rng(sampling.seed)
        self._penalizes = bool(sampling.frequency_penalty or sampling.presence_penalty)
        self._repeats = sampling.repetition_penalty != 1
        self._counts = np.zeros(0, np.int32)
        """The number of times that each token of the vocabulary is in the answer."""
        self._seen = np.zeros(0, np.bool_)
        """Whether it is in the prompt or the answer."""

    def choose(self, logits: np.ndarray) -> int:
        """The next token's id, from its logits [vocabulary] after all that was chosen before.

        Raises:
            NotFinite: the highest is NaN or infinite.
        """
        adjusted = self._adjusted(logits)
        chosen = choose(adjusted, self._sampling, self._random)
        if self._penalizes:
            self._counts[chosen] += 1
        if self._repeats:
            self._seen[chosen] = True
        return chosen

    def _adjusted(self, logits: np.ndarray) -> np.ndarray:
        settings = self._sampling
        if not (settings.logit_bias or self._repeats or self._penalizes):
            return logits
        scores = logits.astype(np.float32)  # a copy: the caller's stay as they are
        if settings.logit_bias:
            ids = np.array([*settings.logit_bias])
            if not 0 <= ids.min() <= ids.max() < len(scores):
                raise UserError(
                    f"logit_bias names the tokens {ids.min()} to {ids.max()}, and the model has "
                    f"{len(scores):,} from 0 on: leave out those that it has not."
                )
            scores[ids] += np.array([*settings.logit_bias.values()], np.float32)
        if self._repeats:
            if not len(self._seen):
                self._seen = np.zeros(len(scores), np.bool_)
                self._seen[np.asarray(self._prompt, np.int64)] = True
            ids = np.flatnonzero(self._seen)
            seen, penalty = scores[ids], np.float32(settings.repetition_penalty)
            scores[ids] = np.where(seen < 0, seen * penalty, seen / penalty)
        if self._penalizes:
            if not len(self._counts):
                self._counts = np.zeros(len(scores), np.int32)
            ids = np.flatnonzero(self._counts)
            counts = self._counts[ids]
            scores[ids] -= np.float32(settings.frequency_penalty) * counts
            scores[ids] -= np.float32(settings.presence_penalty)
        return scores


def choose(scores: np.ndarray, sampling: Sampling, random: np.random.Generator) -> int:
    """A token's id by its score [vocabulary]: the likeliest at temperature 0, else drawn from those
    of `weighted`.

    Raises:
        NotFinite: the highest score is NaN or infinite.
    """
    best = int(scores.argmax())  # the first NaN, where there is one
    if not math.isfinite(scores[best]):
        raise NotFinite
    if sampling.temperature == 0:
        return best
    ids, weights = weighted(scores, sampling)
    place = _drawn(weights, random.random())
    return place if ids is None else int(ids[place])


def weighted(scores: np.ndarray, sampling: Sampling) -> tuple[np.ndarray | None, np.ndarray]:
    """Tokens that may follow above temperature 0 (None: all), and a weight of each in proportion to
    its probability.

    They are the top_k likeliest, of them the smallest set whose probability reaches top_p (nucleus
    sampling, Holtzman et al., 2020), of them those of at least min_p of the likeliest one's
    probability (Nguyen et al., 2024).
    """
    peak, heat = scores.max(), sampling.temperature

    def weights_of(some: np.ndarray, kind: type[np.floating[Any]]) -> np.ndarray:
        with np.errstate(over="ignore"):  # -infinity has the weight 0
            return np.asarray(np.exp((some - peak).astype(kind) / kind(heat)))

    ids: np.ndarray | None = None
    if sampling.top_k:
        ids = likeliest(scores, sampling.top_k)
        weights = weights_of(scores[ids], np.float64)
    else:
        weights = weights_of(scores, np.float32)
    if sampling.top_p < 1:
        goal = sampling.top_p * weights.sum(dtype=np.float64)
        if ids is None:
            count = _FIRST
            while True:
                ids = likeliest(scores, count)
                weights = weights_of(scores[ids], np.float64)
                if weights.sum() >= goal or count >= len(scores):
                    break
                count *= _MORE
        kept = int(np.searchsorted(np.cumsum(weights), goal)) + 1
        ids, weights = ids[:kept], weights[:kept]
    if sampling.min_p:
        near = np.flatnonzero(weights >= sampling.min_p * weights.max())
        ids, weights = near if ids is None else ids[near], weights[near]
    return ids, weights


def _drawn(weights: np.ndarray, share: float) -> int:
    """The place at which the sum of weights passes a share of all, in an order of its own."""
    columns = len(weights) // _ROWS
    if columns < _ROWS:
        return _passed(np.cumsum(weights, dtype=np.float64), share)
    # Sums of columns are the fastest: each addition is of two whole rows.
    square = weights[: columns * _ROWS].reshape(_ROWS, columns)
    rest = weights[columns * _ROWS :].sum(dtype=np.float64)
    ends = np.cumsum(np.append(square.sum(axis=0), rest), dtype=np.float64)
    column = _passed(ends, share)
    before = ends[column - 1] if column else 0.0
    within = (share * ends[-1] - before) / (ends[column] - before)
    if column == columns:
        own = np.cumsum(weights[columns * _ROWS :], dtype=np.float64)
        return columns * _ROWS + _passed(own, within)
    return _passed(np.cumsum(square[:, column], dtype=np.float64), within) * columns + column


def _passed(sums: np.ndarray, share: float) -> int:
    """The first place whose sum is above a share of the last; never one that adds nothing."""
    goal = min(max(share, 0.0) * sums[-1], np.nextafter(sums[-1], 0))
    return int(np.searchsorted(sums, goal, side="right"))
