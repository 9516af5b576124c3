"""EdgePrune: small, fast ONNX bundles from Hugging Face transformers, proved by measurement."""

__version__ = "0.1.0"
