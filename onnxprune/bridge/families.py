"""What each operator becomes in torch. One family per file; importing this fills the registry."""

from onnxprune.bridge import (  # noqa: F401  imported for the translations that they register
    control,
    conv,
    elementwise,
    index,
    linear,
    norm,
    pool,
    reduce,
    shape,
)
from onnxprune.bridge.registry import OPS

__all__ = ["OPS"]
