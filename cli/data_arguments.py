"""The options that say which data, and how images become what the model takes: the same in every command."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError, Namespace
from dataclasses import replace
from typing import Any

from onnxprune.cli.arguments import Parser, file_name, positive
from onnxprune.data.preprocess import COLORS, LAYOUTS, Preprocess, read_preprocess
from onnxprune.data.sources import Dataset, Request, holds_images, reopened
from onnxprune.data.synthetic import WITHOUT_DATA
from onnxprune.errors import NoData
from onnxprune.files.model import Model
from onnxprune.graph.dims import Dims
from onnxprune.passes.compensate import MAKE_UPS
from onnxprune.scoring.gradient_criteria import ASKING

EMBEDDED = "onnxprune.models_zoo.digits:held_out"
"""The data of the network that is shipped."""
CALIBRATION = 1024
"""Samples of `--calib`, where their number is not said."""
BATCH = 32
"""Likewise, of a run."""
SEEN = "onnxprune.models_zoo.digits:seen"
"""What it may be calibrated on."""
_IMAGES = ("mean", "std", "size", "layout", "color")


def add(parser: Parser) -> None:
    """The arguments."""
    group = parser.add_argument_group("data (see docs/data.md)")
    group.add_argument(
        "--data",
        metavar="DATA",
        type=file_name,
        help="a folder or .zip of images, .npy, .npz or a folder of those, module:function, or random:N "
        "(default: none, but for the network shipped, which has its own)",
    )
    group.add_argument("--limit", metavar="N", type=positive, help="use so many samples at most")
    _add_reading(group)


def _add_reading(group: Any) -> None:
    """How batches are made, and how images become what the model takes."""
    group.add_argument(
        "--batch",
        metavar="N",
        type=positive,
        help=f"samples per run, where the model leaves that open (default: {BATCH})",
    )
    _add_images(group)


def add_training(parser: Parser) -> None:
    """The arguments of what is trained and validated on."""
    group = parser.add_argument_group("data (see docs/data.md)")
    group.add_argument(
        "--data",
        metavar="DATA",
        type=file_name,
        required=True,
        help="what to train on: a folder or .zip of images, .npy, .npz or a folder of those, module:function",
    )
    group.add_argument(
        "--val",
        metavar="DATA",
        type=file_name,
        help="likewise, what to measure every epoch on; the best one is written (default: the last one is)",
    )
    group.add_argument("--limit", metavar="N", type=positive, help="train on so many samples at most")
    _add_images(group)


def training(args: Namespace) -> tuple[Request, Request | None]:
    """What to train and to validate on."""
    how = _preprocess(args)
    return Request(args.data, how, args.limit), Request(args.val, how) if args.val else None


def _add_images(group: Any) -> None:
    group.add_argument("--mean", metavar="M", type=_numbers, help="of each channel, such as 0.485,0.456,0.406")
    group.add_argument("--std", metavar="S", type=_numbers, help="of each channel, such as 0.229,0.224,0.225")
    group.add_argument("--size", metavar="N", type=_size, help="of images: 224, or HEIGHTxWIDTH")
    group.add_argument("--layout", choices=LAYOUTS, help="where the channels of images go")
    group.add_argument("--color", choices=tuple(COLORS), help="the channels of images")
    group.add_argument(
        "--preprocess", metavar="FILE", type=file_name, help="TOML file with these options of images, and scale"
    )


def add_calibration(parser: Parser) -> None:
    """The arguments of what is calibrated on; how images are read is told by `add`."""
    group = parser.add_argument_group("calibration, which needs no labels (see docs/compensation.md)")
    group.add_argument(
        "--calib",
        metavar="DATA",
        type=file_name,
        help="make up for what was cut by solving the weights that are left, on this data: as --data, some hundred "
        "samples will do; none: on noise as smooth as photographs (default: leave the weights as they are)",
    )
    group.add_argument(
        "--compensate",
        choices=MAKE_UPS,
        help="by what: least squares, layer after layer (sequential, default); the same from what the original alone "
        "computes (one-pass: quicker, but worse); mean and variance of each channel brought back (bn); or none: the "
        "data is for the criterion alone",
    )
    group.add_argument(
        "--calib-samples", metavar="N", type=positive, help=f"use so many at most (default: {CALIBRATION})"
    )


def add_samples(parser: Parser) -> None:
    """The arguments of a command that looks at unlabelled samples and at nothing else."""
    group = parser.add_argument_group("samples, which need no labels (see docs/data.md)")
    group.add_argument(
        "--calib",
        metavar="DATA",
        type=file_name,
        help="a folder or .zip of images, .npy, .npz or a folder of those, module:function, or random:N; none: noise "
        "as smooth as photographs",
    )
    group.add_argument(
        "--calib-samples", metavar="N", type=positive, default=512, help="use so many at most (default: 512)"
    )
    _add_reading(group)


def samples(args: Namespace) -> Request:
    """What they ask for."""
    if args.calib is None:
        raise NoData("name the data: --calib photos/, x.npz, module:function or random:64")
    return _calibration(args, args.calib)


def calibration(args: Namespace, *, embedded: bool) -> Request | None:
    """What to calibrate on. The network that is shipped has data for criteria that ask some."""
    limit = args.calib_samples
    if isinstance(args.calib, Request):
        return _changed(args.calib, args, limit or args.calib.limit or CALIBRATION)
    spec = args.calib or (SEEN if embedded and args.criterion in ("auto", *ASKING) else None)
    if spec is None and args.compensate not in (None, "none"):
        raise NoData(f"--compensate {args.compensate} asks for data: name some, --calib photos/, or --calib none")
    if spec is None and limit is not None:
        raise NoData("--calib-samples says how much of --calib is used: name it, too")
    return _calibration(args, spec) if spec else None


def _calibration(args: Namespace, spec: str) -> Request:
    limit = args.calib_samples or CALIBRATION
    if spec == "none":
        return _request(args, f"synthetic:{min(limit, WITHOUT_DATA)}", None)
    return _request(args, spec, limit)


def asked(args: Namespace, *, embedded: bool) -> Request:
    """What the arguments ask for; mistakes in them must not wait for the model to be read."""
    if args.data is None and not embedded:
        raise NoData("name the data: --data photos/, x.npz, module:function or random:64")
    if isinstance(args.data, Request):
        return _changed(args.data, args, args.limit or args.data.limit)
    return _request(args, args.data or EMBEDDED, args.limit)


def _request(args: Namespace, spec: str, limit: int | None) -> Request:
    how = _preprocess(args) if _for_images(args, spec) else None
    return Request(spec, how, limit, args.batch or BATCH)


def _changed(request: Request, args: Namespace, limit: int | None) -> Request:
    """Data from a file of options, with what the command line says of images and batches."""
    how = _preprocess(args) if _images(args) and _for_images(args, request.spec) else request.preprocess
    return replace(request, limit=limit, preprocess=how, batch=args.batch or request.batch)


def _for_images(args: Namespace, spec: str) -> bool:
    """Whether the options of images are for this data: where other data are images and these are none, they are not."""
    given = [getattr(args, name, None) for name in ("data", "calib")]  # not every command has both
    named = [getattr(each, "spec", each) for each in given if each is not None]
    return holds_images(spec) or not any(map(holds_images, named))


def check_images(args: Namespace) -> None:
    """Refuse options of images where no data is named."""
    if _images(args) and args.data is None and args.calib is None:
        raise NoData("mean, std, size, layout and color are for images: name some, --data photos/ or --calib photos/")


def _images(args: Namespace) -> bool:
    return any(getattr(args, name) is not None for name in (*_IMAGES, "preprocess"))


def _preprocess(args: Namespace) -> Preprocess:
    given = {name: getattr(args, name) for name in _IMAGES if getattr(args, name) is not None}
    return replace(read_preprocess(args.preprocess) if args.preprocess else Preprocess(), **given)


def opened(request: Request, model: Model, dims: Dims) -> Dataset:
    """The data for a model, whose free dimensions the user may have bound."""
    return reopened(replace(request, dims=tuple(dims.items())), model)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a list of numbers, such as 0.5 or 0.485,0.456,0.406") from None


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9})(?:x(\d{1,9}))?", text)
    if found is None:
        raise ArgumentTypeError(f"{text!r} is no size, such as 224 or 224x320")
    return int(found[1]), int(found[2] or found[1])
