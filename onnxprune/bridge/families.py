"""What each operator becomes in torch. One family per file; importing this fills the registry."""

from onnxprune.bridge import (  # noqa: F401  imported for the translations that they register
    attention,
    chance,
    control,
    conv,
    detect,
    elementwise,
    index,
    linear,
    narrow,
    norm,
    pool,
    quant,
    recurrent,
    reduce,
    resize,
    sequence,
    shape,
)
from onnxprune.bridge.registry import OPS

__all__ = ["OPS"]
