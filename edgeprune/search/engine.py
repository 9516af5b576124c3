"""The engines that carry out trials: this process, or Ray's.

Trials are pure functions of what they hold (trial.py), so that it does not matter where one runs,
how often, or in which order.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Protocol

from edgeprune.base.errors import UserError
from edgeprune.base.install import install
from edgeprune.search.prepare import Prepared
from edgeprune.search.settings import CLIENT
from edgeprune.search.trial import Trial, Tried, try_out


class Engine(Protocol):
    """Carries out trials."""

    alone: bool
    """Whether they run on this machine with nothing beside, so that their times hold."""
    together: int
    """Trials that run at once."""

    def run(self, trials: Sequence[Trial]) -> list[Tried]:
        """The results, in the order of the trials."""


class Here:
    """This process, one after the other."""

    alone = True
    together = 1

    def run(self, trials: Sequence[Trial]) -> list[Tried]:
        """Each in turn."""
        return [try_out(trial) for trial in trials]


@contextmanager
def engine(prepared: Prepared, workers: int | None, address: str | None) -> Iterator[Engine]:
    """The engine that was asked for, for the length of the context.

    Args:
        workers: processes of a Ray of its own on this machine; None: this process.
        address: of a Ray cluster that runs already.

    Raises:
        UserError: both are given, Ray is not installed, or the cluster does not answer.
    """
    if workers is None and address is None:
        yield Here()
        return
    if workers is not None and address is not None:
        raise UserError(
            "--workers starts processes here and --cluster takes a cluster's: give one."
        )
    try:
        from edgeprune.search.cluster import cluster

        if (address or "").startswith(CLIENT):
            import_module("grpc")  # which Ray alone does not bring
    except ModuleNotFoundError as error:
        raise UserError(
            f"--workers and --cluster need the package {error.name}: {install('cluster')}."
        ) from None
    with cluster(prepared, workers, address) as found:
        yield found
