"""Trials on Ray: workers of this machine, or a cluster.

The model and the text go through Ray's object store once for a machine, into a folder named by
their hash; results are written where the search's output lies, which every machine must reach by
the same path. A trial whose worker dies runs again, and goes on from the stages that it had. Speeds
are not taken from workers: the search times bundles itself, alone (run.py).
"""

import getpass
import hashlib
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from edgeprune.base.errors import UserError, reason
from edgeprune.base.progress import say
from edgeprune.search.prepare import Prepared
from edgeprune.search.settings import CLIENT
from edgeprune.search.trial import Trial, Tried, try_out

_ANSWERS = 10.0
"""Seconds in which a cluster takes a connection."""
_LOOK_EVERY = 2.0
"""Seconds after which the head is looked at again."""
_TRIES = 3
"""Times that a trial runs again whose worker died."""


@dataclass(frozen=True)
class Packed:
    """Files by a name below their folder, and the hash of all of them."""

    files: Mapping[str, bytes]
    digest: str

    @classmethod
    def of(cls, place: Path) -> "Packed":
        """Of a file, or of all files of a folder."""
        found = [place] if place.is_file() else sorted(f for f in place.rglob("*") if f.is_file())
        root = place.parent if place.is_file() else place
        files = {file.relative_to(root).as_posix(): file.read_bytes() for file in found}
        hashed = hashlib.sha256()
        for name, content in files.items():
            hashed.update(f"{name}\0{len(content)}\0".encode())
            hashed.update(content)
        return cls(files, hashed.hexdigest())

    def unpacked(self) -> Path:
        """The folder of the files on this machine, written by the first that asks."""
        folder = Path(tempfile.gettempdir()) / f"edgeprune-{getpass.getuser()}" / self.digest[:16]
        if folder.is_dir():
            return folder
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=folder.parent))
        for name, content in self.files.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).write_bytes(content)
        try:
            aside.rename(folder)
        except OSError:  # another worker of this machine was first
            if not folder.is_dir():
                raise
        return folder


@contextmanager
def cluster(prepared: Prepared, workers: int | None, address: str | None) -> Iterator["Workers"]:
    """Ray, started or joined, for the length of the context.

    Raises:
        UserError: the cluster does not answer.
    """
    if not _answers(address):
        raise UserError(_no_cluster(address))
    try:
        started: Any = ray.init(
            address=address,
            num_cpus=None if address else workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except ConnectionError as error:
        raise UserError(f"{_no_cluster(address)} ({error})") from None
    if url := getattr(started, "dashboard_url", None):
        say(f"[search] Ray's dashboard: http://{url}")
    try:
        client = (address or "").startswith(CLIENT)
        yield Workers(prepared, address if client else ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()


def _answers(address: str | None) -> bool:
    """Whether somebody listens at an address: Ray itself would wait for a minute, and where it has
    begun ends the process then. True of a name like auto, which Ray looks up."""
    host, colon, port = (address or "").removeprefix(CLIENT).rpartition(":")
    if not colon or not port.isdigit():
        return True
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWERS).close()
    except OSError:
        return False
    return True


def _no_cluster(address: str | None) -> str:
    return (
        f"No Ray cluster answers at {address}: start one with `ray start --head`, or leave "
        "--cluster out."
    )


class Workers:
    """Ray's workers, a core or more each."""

    alone = False

    def __init__(self, prepared: Prepared, head: str | None) -> None:
        """head: the address of the cluster's head."""
        self._head = head
        self.together = max(1, int(ray.cluster_resources().get("CPU", 1)))
        recipe = prepared.base
        named = [str(recipe.model), *recipe.text.data]
        self._packed = {
            name: ray.put(Packed.of(Path(name))) for name in named if Path(name).exists()
        }

    def run(self, trials: Sequence[Trial]) -> list[Tried]:
        """All at once, as many as there are cores.

        Raises:
            UserError: a trial failed again and again, or the cluster went away.
        """
        waiting = [_carry_out.remote(trial, list(self._packed.items())) for trial in trials]
        try:
            found = self._results(waiting)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from None
            raise
        except ray.exceptions.RayError as error:
            raise UserError(_gone(reason(error))) from None
        return [Tried.model_validate(each) for each in found]

    def _results(self, waiting: Sequence[Any]) -> list[dict[str, Any]]:
        """The results of tasks, as long as the head is there."""
        while True:
            try:
                found: list[dict[str, Any]] = ray.get(waiting, timeout=_LOOK_EVERY)
                return found
            except ray.exceptions.GetTimeoutError:
                if not _answers(self._head):
                    raise UserError(_gone(f"nobody answers at {self._head}")) from None


def _gone(why: str) -> str:
    return (
        f"The cluster went away ({why}). What was finished is kept; give the same command again "
        "when it is back."
    )


@ray.remote(num_cpus=1, max_retries=_TRIES)
def _carry_out(trial: Trial, packed: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """One trial, on files of this machine."""
    places = {name: ray.get(reference).unpacked() for name, reference in packed}
    tried = try_out(replace(trial, recipe=_placed(trial.recipe, places)))
    return tried.to_json()


def _placed(recipe: Mapping[str, Any], places: Mapping[str, Path]) -> dict[str, Any]:
    """A recipe with the model and the text where they lie on this machine."""

    def place(name: str) -> str:
        if name not in places:
            return name
        file = places[name] / Path(name).name
        return str(file if file.is_file() else places[name])

    text = recipe["text"]
    return {
        **recipe,
        "model": place(str(recipe["model"])),
        "text": {**text, "data": [place(each) for each in text["data"]]},
    }
