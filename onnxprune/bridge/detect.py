"""What detectors end in: boxes are chosen without gradients, what is read at them has gradients again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from onnxprune.bridge.registry import Step, op


@op("NonMaxSuppression", sizes=(2, 3, 4))
def non_max_suppression(s: Step) -> fx.Node:
    limits = (s.numbers(2, 0), s.numbers(3, 0.0), s.numbers(4))
    return s.emit(suppressed, s.tensor(0), s.tensor(1), *limits, bool(s.attr("center_point_box", 0)))


def _one(number: Any) -> Any:
    return number[0] if isinstance(number, list) else number


def suppressed(boxes: Tensor, scores: Tensor, most: Any, overlap: Any, least: Any, centred: bool) -> Tensor:
    """(batch, class, box) of the best boxes that do not overlap better ones."""
    most, overlap, least = _one(most), _one(overlap), _one(least)
    rows: list[list[int]] = []
    with torch.no_grad():
        corners = _corners(boxes, centred)
        for batch in range(scores.shape[0]):
            for kind in range(scores.shape[1]):
                kept = _best(corners[batch], scores[batch, kind], int(most or 0), float(overlap or 0), least)
                rows += [[batch, kind, place] for place in kept]
    return torch.tensor(rows, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def _corners(boxes: Tensor, centred: bool) -> Tensor:
    if centred:
        x, y, w, h = boxes.unbind(-1)
        return torch.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], -1)
    a, b = boxes[..., :2], boxes[..., 2:]
    return torch.cat([torch.minimum(a, b), torch.maximum(a, b)], -1)


def _best(boxes: Tensor, scores: Tensor, most: int, overlap: float, least: float | None) -> list[int]:
    kept: list[int] = []
    order = torch.sort(scores, descending=True, stable=True).indices
    if least is not None:
        order = order[scores[order] > least]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    while order.numel() and len(kept) < most:
        first = order[0]
        kept.append(int(first))
        low = torch.maximum(boxes[first, :2], boxes[order, :2])
        high = torch.minimum(boxes[first, 2:], boxes[order, 2:])
        shared = (high - low).clamp(min=0).prod(-1)
        union = areas[first] + areas[order] - shared
        share = torch.where(union > 0, shared / union, torch.zeros_like(union))
        keep = share <= overlap
        keep[0] = False
        order = order[keep]
    return kept


@op("RoiAlign")
def roi_align(s: Step) -> fx.Node:
    half = s.attr("coordinate_transformation_mode", "half_pixel" if s.opset >= 16 else "output_half_pixel")
    return s.emit(
        aligned,
        s.tensor(0),
        s.tensor(1),
        s.tensor(2),
        s.attr("output_height", 1),
        s.attr("output_width", 1),
        s.attr("sampling_ratio", 0),
        s.attr("spatial_scale", 1.0),
        half == "half_pixel",
        s.attr("mode", "avg") == "max",
    )


def aligned(
    x: Tensor,
    boxes: Tensor,
    images: Tensor,
    height: int,
    width: int,
    ratio: int,
    scale: float,
    half: bool,
    largest: bool,
) -> Tensor:
    """Each box cut into cells, each cell the mean, or the largest, of points read between pixels."""
    found = [
        _cells(x[int(image)], box * scale - (0.5 if half else 0.0), height, width, ratio, half, largest)
        for box, image in zip(boxes, images, strict=True)
    ]
    return torch.stack(found) if found else x.new_zeros(0, x.shape[1], height, width)


def _cells(x: Tensor, box: Tensor, height: int, width: int, ratio: int, half: bool, largest: bool) -> Tensor:
    left, top, right, bottom = box.unbind()
    w, h = right - left, bottom - top
    if not half:
        w, h = w.clamp(min=1), h.clamp(min=1)
    rows = ratio or int(torch.ceil(h / height))
    columns = ratio or int(torch.ceil(w / width))
    if rows < 1 or columns < 1:  # a box that ends before it begins
        return x.new_zeros(x.shape[0], height, width)
    ys, yw = _between(top, h / height, height, rows, x.shape[1])
    xs, xw = _between(left, w / width, width, columns, x.shape[2])
    total: Tensor | None = None
    parts = []
    for a in range(2):
        for b in range(2):
            weight = yw[a].unsqueeze(1) * xw[b]
            part = x[:, ys[a]][:, :, xs[b]] * weight
            parts.append(part)
            total = part if total is None else total + part
    points = torch.stack(parts).amax(0) if largest else total
    assert points is not None
    points = points.reshape(-1, height, rows, width, columns)
    return points.amax((2, 4)) if largest else points.mean((2, 4))


def _between(start: Tensor, step: Tensor, cells: int, points: int, length: int) -> tuple[list[Tensor], list[Tensor]]:
    """The two pixels around every point of one axis, and their weights; nothing is read beyond a pixel outside."""
    i = torch.arange(cells * points, device=start.device)
    at = start + step * (i // points) + step * (i % points + 0.5) / points
    inside = ((at >= -1) & (at <= length)).to(at.dtype)
    at = at.clamp(min=0)
    low = at.floor().clamp(max=length - 1)
    high = (low + 1).clamp(max=length - 1)
    share = torch.where(low >= length - 1, torch.zeros_like(at), at - low)
    return [low.long(), high.long()], [(1 - share) * inside, share * inside]
