"""A build by several processes, which accelerate starts and brings together.

    accelerate launch --multi_gpu --num_processes 2 -m edgeprune build ...

`--multi_gpu` is its name for a launch of several processes; no graphics card is needed. With MPI,
`--cpu --mpirun_hostfile FILE` does the same. What the processes do alike stands in base/ranks.py
and compress/distil/together.py.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

from edgeprune.base.errors import UserError
from edgeprune.base.install import install
from edgeprune.base.progress import console
from edgeprune.base.ranks import ENDED, is_first, set_place

_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables by which torch's and MPI's launchers tell the count of processes."""
_NUMBERS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""Variables by which they tell a process its number."""
_LONGEST = timedelta(days=30)
"""The others wait as long as this for what the first does alone; one that dies is noticed at
once."""


def asked() -> int:
    """Processes that were started together, by what their launcher tells.

    Raises:
        UserError: several were asked for and one was started.
    """
    count = max(int(os.environ.get(name) or 1) for name in _COUNTS)
    launched = "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ
    if count == 1 and launched:
        raise UserError(
            "accelerate was asked for several processes and started one, as it does with --cpu and "
            "no MPI: use `accelerate launch --multi_gpu --num_processes N`, which needs no "
            "graphics card, or give --mpirun_hostfile."
        )
    return count


def refuse_several(what: str, instead: str) -> None:
    """Refuse processes that were started together for what they cannot share.

    Raises:
        UserError: there are several.
    """
    if asked() > 1:
        raise UserError(f"{what} is not shared by processes of accelerate: {instead}.")


@contextmanager
def joined() -> Iterator[None]:
    """The processes that were started together, in step for the length of the context; all but the
    first are silent. One that was started alone stays alone.

    Raises:
        UserError: accelerate is not installed, no launcher started them, or another of them has
            ended.
    """
    if asked() == 1:
        yield
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in run.py; threads the launcher says
    try:
        from accelerate import PartialState
    except ModuleNotFoundError as error:
        raise UserError(
            f"A build by several processes needs the package {error.name}: {install('cluster')}."
        ) from None
    _refuse_unlaunched()
    state = PartialState(cpu=True, timeout=_LONGEST)
    set_place(state.process_index, state.num_processes)
    console.quiet = not is_first()
    before = signal.signal(signal.SIGTERM, _end)  # how a launcher ends what a dead one left behind
    try:
        yield
    except BaseException:
        # This process ends by itself now, and first says why: a launcher that ends it meanwhile
        # would cut that short.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    finally:
        set_place(0, 1)
        state.destroy_process_group()
    signal.signal(signal.SIGTERM, before)


def _refuse_unlaunched() -> None:
    """Refuse a count of processes that no launcher gave: torch would wait for the others."""
    missing = [] if os.environ.get("MASTER_ADDR") else ["MASTER_ADDR"]
    missing += [] if any(os.environ.get(name) for name in _NUMBERS) else ["RANK"]
    if missing:
        name = next(name for name in _COUNTS if int(os.environ.get(name) or 1) > 1)
        raise UserError(
            f"{name} asks for {asked()} processes, and {missing[0]}, which a launcher sets as "
            "well, is missing: start them with `accelerate launch --multi_gpu --num_processes "
            f"{asked()} -m edgeprune build ...`, or unset {name} to build by this process alone."
        )


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: what follows is the way out
    raise UserError(ENDED)
