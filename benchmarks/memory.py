"""Peak memory on a model larger than it: transformer-like, random weights in external data, analysed and pruned.

Each block of the generated model is LayerNormalization, MatMul to four times the width, Gelu, MatMul back, residual
Add. Its weights are drawn and written block by block, so that generating needs little memory as well. The files are
deleted at the end.

    python benchmarks/memory.py FOLDER [--gigabytes 6] [--limit 3] [--model resnet50.onnx] [--json memory.json]

FOLDER needs room for twice that size. --model adds a row: that file, pruned with the verification that is on by
default. `anonymous` is what the process itself allocated; `resident` adds the mapped file pages, which the system
may take back at any time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import child

if TYPE_CHECKING:
    import numpy as np
    import onnx

SEED = 20
OPSET = 20
CHUNK = 1 << 22
"""Weights drawn at a time."""
ALIGNMENT = 4096
"""Of each tensor in the external file: what a memory map wants."""
ROOM = 2.1


def generate(path: Path, gigabytes: float, width: int) -> None:
    """Write the model; its size is rounded up to whole blocks."""
    import numpy as np
    from onnx import TensorProto, helper

    blocks = max(1, -int(-gigabytes * 1e9 // (4 * 8 * width * width)))
    rng = np.random.default_rng(SEED)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    data = path.with_name(f"{path.name}.data")
    with data.open("wb") as file:

        def weight(name: str, shape: tuple[int, ...], mean: float, scale: float) -> str:
            weights.append(stream(file, data.name, name, shape, mean, scale, rng))
            return name

        x = "input"
        for index in range(blocks):
            at = f"block{index}"
            scale = weight(f"{at}.norm.weight", (width,), 1.0, 0.1)
            shift = weight(f"{at}.norm.bias", (width,), 0.0, 0.1)
            up = weight(f"{at}.up.weight", (width, 4 * width), 0.0, width**-0.5)
            up_bias = weight(f"{at}.up.bias", (4 * width,), 0.0, 0.1)
            down = weight(f"{at}.down.weight", (4 * width, width), 0.0, (4 * width) ** -0.5)
            down_bias = weight(f"{at}.down.bias", (width,), 0.0, 0.1)
            out = "output" if index == blocks - 1 else f"{at}.out"
            for op, inputs, output in (
                ("LayerNormalization", [x, scale, shift], f"{at}.normed"),
                ("MatMul", [f"{at}.normed", up], f"{at}.wide"),
                ("Add", [f"{at}.wide", up_bias], f"{at}.shifted"),
                ("Gelu", [f"{at}.shifted"], f"{at}.active"),
                ("MatMul", [f"{at}.active", down], f"{at}.narrow"),
                ("Add", [f"{at}.narrow", down_bias], f"{at}.delta"),
                ("Add", [x, f"{at}.delta"], out),
            ):
                nodes.append(helper.make_node(op, inputs, [output], name=f"{output}/{op}"))
            x = out
    shape: list[str | int | None] = ["batch", "sequence", width]
    graph = helper.make_graph(
        nodes,
        "blocks",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    path.write_bytes(model.SerializeToString())


def stream(
    file: BinaryIO,
    location: str,
    name: str,
    shape: tuple[int, ...],
    mean: float,
    scale: float,
    rng: np.random.Generator,
) -> onnx.TensorProto:
    """Append random float32 weights to the file, a chunk at a time; the tensor that says where they are."""
    import numpy as np
    import onnx

    file.write(b"\0" * (-file.tell() % ALIGNMENT))
    offset = file.tell()
    left = int(np.prod(shape))
    while left:
        chunk = rng.standard_normal(min(left, CHUNK), dtype=np.float32)
        chunk *= np.float32(scale)
        chunk += np.float32(mean)
        file.write(chunk.data)
        left -= chunk.size
    tensor = onnx.TensorProto(name=name, dims=shape, data_type=onnx.TensorProto.FLOAT)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(file.tell() - offset))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def main() -> int:
    """Generate and measure, in a folder that is gone afterwards."""
    parser = argparse.ArgumentParser(description="Peak memory on a model that is larger than it.")
    parser.add_argument("folder", type=Path, help="where the model is generated")
    parser.add_argument("--gigabytes", type=float, default=6.0, help="of weights (default 6)")
    parser.add_argument("--width", type=int, default=2048, help="of the residual stream (default 2048)")
    parser.add_argument("--limit", type=float, default=3.0, metavar="GB", help="of resident memory (default 3)")
    parser.add_argument("--model", type=Path, help="another file to prune, with verification")
    parser.add_argument("--model-limit", type=float, default=0.6, metavar="GB", help="for that file (default 0.6)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--generate", type=Path, metavar="OUT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.generate:
        generate(options.generate, options.gigabytes, options.width)
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    room = shutil.disk_usage(options.folder).free
    if room < ROOM * options.gigabytes * 1e9:
        parser.error(f"{options.folder} has {room / 1e9:.1f} GB free, {ROOM * options.gigabytes:.1f} GB are needed")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        return measure(Path(name), options)


def measure(folder: Path, options: argparse.Namespace) -> int:
    """Generate, run each command, print the table. Exit status 1 if one failed or needed more than its limit."""
    model, out = folder / "blocks.onnx", folder / "pruned.onnx"
    onnxprune: list[str | Path] = [sys.executable, "-m", "onnxprune"]
    prune: list[str | Path] = ["--ratio", "0.3", "--criterion", "l1", "-o", out]
    size = ["--gigabytes", str(options.gigabytes), "--width", str(options.width)]
    commands: list[tuple[str, list[str | Path], float | None]] = [
        ("generate", [sys.executable, __file__, folder, "--generate", model, *size], None),
        ("analyze", [*onnxprune, "analyze", model], options.limit),
        ("prune", [*onnxprune, "prune", model, *prune, "--verify", "structural"], options.limit),
    ]
    if options.model:
        command = [*onnxprune, "prune", options.model.resolve(), *prune]
        commands.append((f"prune {options.model.name}, verified", command, options.model_limit))
    print(f"{'command':32s} {'seconds':>8s} {'resident GB':>11s} {'anonymous GB':>12s} {'limit GB':>8s}")
    found = []
    for label, command, limit in commands:
        done = child.run(command)
        over = limit is not None and done.peak_rss > limit * 1e9
        said = f"{label:32s} {done.seconds:8.1f} {done.peak_rss / 1e9:11.2f} {done.peak_anonymous / 1e9:12.2f} "
        said += f"{limit:8.2f}" if limit else f"{'':8s}"
        said += f"  {done.failure}" if done.status else "  OVER" if over else ""
        print(said, flush=True)
        found.append(
            {
                "command": label,
                "seconds": done.seconds,
                "peak_rss": done.peak_rss,
                "peak_anonymous": done.peak_anonymous,
                "limit": limit,
                "ok": not done.status and not over,
            }
        )
        if label == "generate":
            if done.status:
                break
            total = sum(file.stat().st_size for file in folder.iterdir())
            print(f"  {total / 1e9:.2f} GB in {len(list(folder.iterdir()))} files", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(not all(row["ok"] for row in found))


if __name__ == "__main__":
    sys.exit(main())
