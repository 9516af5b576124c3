"""The quantize stage: plan formats, compute every stored value, leave the model at those values."""

from pathlib import Path

from edgeprune.compress.context import Context
from edgeprune.compress.quantize.massive import refuse_drift
from edgeprune.compress.quantize.model import quantize_model
from edgeprune.compress.quantize.record import Quantized
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.model.forward import tensors
from edgeprune.model.store import load_masks, load_model, save_model


def run(context: Context, source: Path, target: Path, settings: QuantizeSettings) -> Quantized:
    """Quantize the model in `source`; write it with its plan into `target`.

    Raises:
        UserError: it cannot be quantized so, or would be spoilt.
    """
    model = load_model(source)
    batches = [tensors(batch) for batch in context.calibration(settings.calibration_samples)]
    masks = load_masks(source)
    result = quantize_model(model, batches, settings, context.target, masks, context.seed, target)
    refuse_drift(result.activation_drift, settings)
    save_model(model, target)
    result.save(target)
    return Quantized.from_values(result.summary())
