"""This machine: the processor, what is installed, and which sparse kernels will run."""

from rich.console import RenderableType
from rich.table import Table

from edgeprune.kernels.library import CHOICE, system_facts
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.record import Machine
from edgeprune.measure.inspect.record import Kernels


class System(Machine):
    """This machine, with what is installed of the operator library."""

    kernels: Kernels


def describe_system() -> System:
    """The machine's facts, and those of the operator library."""
    return System.model_validate({**machine_facts().to_json(), "kernels": system_facts()})


def system_table(facts: System) -> RenderableType:
    """Show the findings of `describe_system`, for people."""
    kernels = facts.kernels
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("processor", f"{facts.processor}, {facts.architecture}")
    table.add_row("cores", f"{facts.logical_cores}")
    table.add_row("memory", f"{(facts.memory_bytes or 0) / 1e9:.1f} GB")
    table.add_row("python", facts.python)
    table.add_row("onnxruntime", facts.onnxruntime)
    table.add_row("edgeprune", facts.edgeprune)
    table.add_row("sparse kernels", kernels.library or f"not installed: {kernels.missing}")
    if kernels.library:
        sets = ", ".join(
            name if there else f"{name} (not on this processor)"
            for name, there in (kernels.instruction_sets or {}).items()
        )
        table.add_row("built for", sets)
        refused = f"none: {CHOICE}={kernels.wanted} is not on this processor"
        table.add_row("runs", kernels.chosen or refused)
    return table
