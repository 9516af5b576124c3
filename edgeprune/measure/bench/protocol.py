"""The protocol of a subject's process and the benchmark: version 1.

The benchmark starts a command for each subject and writes one JSON object a line to its standard
input; the process answers each with one on its standard output, in order. Any program that does
this can be timed, as `command:PROGRAM ARGUMENTS`.

    {"do": "hello"}
        -> {"protocol": 1, "runtime": "what runs it, with its version", "does": ["encoder"]}
    {"do": "load", "threads": 1, "cores": [1], "seed": 0}               -> {"seconds": [s]}
    {"do": "encoder", "batch": 1, "tokens": 128, "calls": 8}            -> {"seconds": [s, ...]}
    {"do": "prompt", "batch": 1, "tokens": 128, "calls": 2}             -> {"seconds": [s, ...]}
    {"do": "decode", "batch": 1, "context": 128, "steps": 32}           -> {"seconds": [s, ...]}
    {"do": "profile", "runs": 8}                         -> {"run_ms": t, "operators": {...}}
    {"do": "memory"}                                                    -> {"peak_bytes": n}
    {"do": "exit"}                                                      no answer: it ends

- hello comes first and loads nothing. "does" names the kinds of work: an encoder's "encoder"; a
  decoder's "prompt" and, with a key-value cache, "decode"; and "profile", where the runtime tells
  the time of each operator. A process that knows its model from its own command line also says
  "files", the paths that hold the model, and "max_length", the most tokens it takes, or null.
- load opens the model on that number of threads and those cores (null: all), and answers how long
  it took, without converting it from another format. Edgeprune's own processes are told here which
  model, too (worker.py, torch_worker.py).
- encoder, prompt and decode answer the seconds of each call. The process draws the token ids, from
  the seed. A prompt's call starts with an empty cache and ends when the first new token is chosen.
  Decoding fills the cache with `context` tokens and takes one step, both untimed, and then times
  each of `steps` steps of one token. "processor_seconds" beside "seconds" may tell the processor's
  time of each call, over all of its threads.
- profile follows a kind of work, in a process whose load said "profile": true; where the runtime
  can tell, "layers" has the time of each by its number.
- memory answers the most resident memory that the process has had.

A failure is answered with {"error": "a sentence"}. What the process writes to standard error is
shown where it dies.

Processes measure their own memory, so this file imports nothing beyond Python's own library.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

VERSION = 1

Message = dict[str, Any]
"""A request, or the answer to one."""
Command = Callable[[Message], Message]


def serve(runtime: str, commands: Mapping[str, Command], **facts: Any) -> None:
    """Answer requests until the benchmark ends: the main loop of a subject's process.

    Args:
        runtime: what runs the model, with its version.
        commands: a function for "load" and for each kind of work, from request to answer.
        facts: what else hello answers: "files" and "max_length".
    """
    # Libraries print; the benchmark must hear answers alone.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    does = [name for name in commands if name != "load"]
    hello = {"protocol": VERSION, "runtime": runtime, "does": does, **facts}
    known = {
        "hello": lambda request: hello,
        "memory": lambda request: {"peak_bytes": peak_bytes()},
        **commands,
    }
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "exit":
            return
        try:
            answer = known[request["do"]](request)
        except Exception as error:  # whatever it is, the asking process must hear of it
            answer = {"error": (str(error).splitlines() or [type(error).__name__])[0]}
        print(json.dumps(answer), file=answers, flush=True)


def stay_on(cores: list[int] | None) -> None:
    """Stay on these processor cores, where the system lets a process choose."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def timed(call: Callable[[], object], calls: int = 1) -> Message:
    """Seconds of each of `calls` calls, by the clock and of the processor, as an answer."""
    seconds, processor = [], []
    for _ in range(calls):
        spent = time.process_time()
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
        processor.append(time.process_time() - spent)
    return {"seconds": seconds, "processor_seconds": processor}


def peak_bytes() -> int:
    """The most resident memory that this process has had.

    Linux: VmHWM; `ru_maxrss` also counts the parent's memory before exec, there.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
