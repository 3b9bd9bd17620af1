"""torchvision, with the compiled operators that its detectors trace through, also where they do not load.

A CPU build of torch next to a CUDA build of torchvision cannot load them. Then they are declared here, with kernels in
Python: enough to trace them, and both exporters know them by name.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_DECLARED: list[Any] = []
"""Operators declared here live as long as the objects in this list."""

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_ROI_ALIGN = (
    "(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor"
)


def torchvision() -> Any:
    """The package, its operators declared."""
    import torch

    if "torchvision" in sys.modules:
        return sys.modules["torchvision"]
    try:
        import torchvision
    except RuntimeError:
        for name in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
            del sys.modules[name]
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch's gap
        library.define("nms" + _NMS)
        library.define("qnms" + _NMS)
        library.define("roi_align" + _ROI_ALIGN)
        import torchvision
        from torchvision import extension

        library.impl("nms", _nms, "CPU")
        library.impl("roi_align", _roi_align, "CPU")
        if not torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::roi_align", "Meta"):
            library.impl("roi_align", _roi_align_shape, "Meta")
        module: Any = sys.modules["torchvision.ops.roi_align"]
        module._roi_align = module._roi_align.__wrapped__  # else torch compiles it, which takes minutes
        module._has_ops = extension._has_ops = _has_operators
        _DECLARED.append(library)
    return torchvision


def _has_operators() -> bool:  # not a lambda: torchvision's functions are scripted, with all that they call
    return True


def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    import torch

    order = scores.argsort(descending=True)
    x1, y1, x2, y2 = boxes.unbind(1)
    area = (x2 - x1) * (y2 - y1)
    kept = []
    while order.numel():
        best, order = order[0], order[1:]
        kept.append(best)
        width = (x2[order].minimum(x2[best]) - x1[order].maximum(x1[best])).clamp(min=0)
        height = (y2[order].minimum(y2[best]) - y1[order].maximum(y1[best])).clamp(min=0)
        both = width * height
        order = order[both / (area[order] + area[best] - both) <= iou_threshold]
    return torch.stack(kept) if kept else scores.new_zeros(0, dtype=torch.int64)


def _roi_align(
    features: torch.Tensor,
    rois: torch.Tensor,
    spatial_scale: float,
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
) -> torch.Tensor:
    python = sys.modules["torchvision.ops.roi_align"]._roi_align
    out: torch.Tensor = python(features, rois, spatial_scale, height, width, sampling_ratio, aligned)
    return out


def _roi_align_shape(
    features: torch.Tensor,
    rois: torch.Tensor,
    spatial_scale: float,
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
) -> torch.Tensor:
    return features.new_empty((rois.size(0), features.size(1), height, width))
