"""The row of the recover stage, which distils the cut model from the original."""

from collections.abc import Mapping
from typing import Any

from edgeprune.compress.facts import Facts
from edgeprune.compress.recover.record import Recovered
from edgeprune.compress.recover.settings import RecoverSettings
from edgeprune.compress.stage import Stage, objective


def _would(settings: RecoverSettings, facts: Facts) -> list[str]:
    anatomy = facts.anatomy
    tables = sum(rows * width for rows, width in map(anatomy.shape, anatomy.embeddings.values()))
    frozen = "" if settings.train_embeddings else f"; {tables:,} embedding weights stay frozen"
    rate = settings.learning_rate
    through = ", through the rounding of quantize" if settings.quantized else ""
    return [f"{settings.length} of distillation{through}, learning rate {rate:g}{frozen}"]


def _agree(settings: RecoverSettings, others: Mapping[str, Any]) -> None:
    """Codes that are trained for must be those that `quantize` gives."""
    if not settings.quantized:
        return
    quantize = others.get("quantize")
    if quantize is None or not quantize.quantizes_linears:
        raise ValueError("recover.quantized trains through the rounding of quantize: add quantize")
    fitting = {
        "weights": ("int8", "int4", "int8-groups"),
        "prefer": (None,),
        "method": ("rtn", "gptq"),
        "symmetric": (True,),
        "smooth": (None,),
        "activations": ("dynamic", "token"),
        "operators": (False, True) if quantize.weights == "int8" else (False,),
    }
    for name, values in fitting.items():
        given = getattr(quantize, name)
        if given not in values:
            named = " or ".join(str(value).lower() for value in values)
            raise ValueError(
                f"recover.quantized trains for codes that quantize gives again, which needs "
                f"quantize.{name} of {named}, not {str(given).lower()}"
            )


def _told(did: Recovered) -> list[str]:
    first, steps = did.checks[0].held_out, did.checks[-1].step
    return [
        f"{steps:,} steps of distillation; held-out loss {first:.4g} at the first check, "
        f"{did.held_out:.4g} at step {did.best_step:,}, whose weights were kept"
    ]


RECOVER = Stage(
    "recover",
    "edgeprune.compress.recover.stage:run",
    Recovered,
    attends=True,
    settings=RecoverSettings,
    default=RecoverSettings,
    description="Recovery by distillation.",
    trains=True,
    would=_would,
    told=_told,
    asks=objective,
    agree=_agree,
    trains_through=lambda settings: settings.quantized,
)
