"""Sparse linears in a stock ONNX Runtime: the C++ operator library, its file formats and loader.

`register(session_options)` registers the operators; `installed()` says whether the library exists.
A model with sparse linears also runs without it, as fast as a dense INT8 model.
"""

from edgeprune.kernels.library import installed as installed
from edgeprune.kernels.library import register as register
