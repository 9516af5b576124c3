"""Sparse linears inside a stock ONNX Runtime: the operator library in C++, files, loader.

`register(session_options)` makes the operators known; `installed()` says whether they are there. A
model with sparse linears runs without them too, as fast as a dense INT8 one.
"""

from edgeprune.kernels.library import installed as installed
from edgeprune.kernels.library import register as register
