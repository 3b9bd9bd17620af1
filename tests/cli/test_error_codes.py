"""docs/errors.md is true: each entry's example is what its mistake prints, and there is one for every code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune import errors
from onnxprune.errors import UserError

from .conftest import FLOAT, Said, network

Run = Callable[..., Said]
DOCS = Path(__file__).parents[2] / "docs/errors.md"

CODES = {thing.code: thing for thing in vars(errors).values() if isinstance(thing, type) and vars(thing).get("code")}


def entries() -> dict[str, str]:
    text = DOCS.read_text("utf-8")
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert len(heads) == len(set(heads))
    return dict(zip(heads, re.split(r"^## .*$", text, flags=re.MULTILINE)[1:], strict=True))


def test_every_code_has_an_entry_and_every_entry_a_code() -> None:
    assert list(entries()) == sorted(CODES)
    assert len(CODES) >= 15
    assert all(issubclass(thing, UserError) for thing in CODES.values())
    for code, text in entries().items():
        assert f"Exit code {CODES[code].exit_code}." in text
        for part in ("- Why: ", "- Example: ", "- What to do: "):
            assert text.count(part) == 1, f"{code}: {part}"


def alien() -> onnx.ModelProto:
    proto = network()
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "Swish2", "my.ops"
    proto.opset_import.append(helper.make_opsetid("my.ops", 1))
    return proto


def bare() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="only")]
    x, y = (helper.make_tensor_value_info(name, FLOAT, [2, n]) for name, n in (("x", 3), ("y", 4)))
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(np.ones((3, 4), np.float32), "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def infinite() -> onnx.ModelProto:
    proto = network()
    values = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    values[0, 0, 0, 0] = np.nan
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "stem.weight"))
    assert proto.graph.initializer[0].data_type == TensorProto.FLOAT
    return proto


def renamed() -> onnx.ModelProto:
    proto = network()
    for node in proto.graph.node:
        node.input[:] = [name.replace("body.2", "body.9") for name in node.input]
    proto.graph.initializer[3].name = "body.9.weight"
    return proto


def other_weights() -> onnx.ModelProto:
    return network(seed=1)


def nothing(run: Run) -> None:
    pass


def planned(run: Run) -> None:
    assert run("prune", "model.onnx", "-o", "small.onnx", "--plan", "plan.json", "--no-bench").code == 0


def measured(run: Run) -> None:
    options = ("--data", "random:2", "--ratios", "0.5", "--include", "body*")
    assert run("sensitivity", "model.onnx", *options).code == 0


FILES: dict[str, Callable[[], onnx.ModelProto]] = {
    "model.onnx": network,
    "custom.onnx": alien,
    "single.onnx": bare,
    "broken.onnx": infinite,
    "renamed.onnx": renamed,
    "retrained.onnx": other_weights,
}

MISTAKES: dict[str, tuple[Callable[[Run], None], str]] = {
    "invalid-model": (nothing, "analyze photo.onnx"),
    "missing-extra": (nothing, "sensitivity model.onnx --data random:4 --plot curves.svg"),
    "no-data": (nothing, "prune model.onnx --max-drop 0.01"),
    "no-scores": (nothing, "prune model.onnx --criterion bn_scale"),
    "not-finite": (nothing, "prune broken.onnx"),
    "not-runnable": (nothing, "bench custom.onnx"),
    "not-verified": (planned, "verify retrained.onnx small.onnx --plan plan.json"),
    "not-writable": (nothing, "prune model.onnx -o out/small.onnx"),
    "nothing-prunable": (nothing, "prune single.onnx"),
    "nothing-to-cut": (nothing, "prune model.onnx --ratio 0.3 --round-to 64"),
    "open-sizes": (nothing, "prune model.onnx --dim bach=8"),
    "other-run": (measured, "sensitivity model.onnx --data random:2 --criterion l2"),
    "out-of-reach": (nothing, "prune model.onnx --target macs=0.01"),
    "unfit-data": (nothing, "sensitivity model.onnx --data photos.npy"),
    "wrong-plan": (planned, "apply renamed.onnx plan.json"),
}


@pytest.mark.parametrize("code", MISTAKES)
def test_the_example_is_what_the_mistake_prints(code: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("photo.onnx").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    np.save("photos.npy", np.zeros((4, 32, 32), np.float32))
    for name, made in FILES.items():
        onnx.save(made(), name)
    before, command = MISTAKES[code]
    before(run)
    if code == "missing-extra":
        monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    said = run(*command.split())
    assert said.code == CODES[code].exit_code
    *_, line = said.err.splitlines()
    assert line.startswith("onnxprune: error: ")
    assert line.endswith(f" [{code}]")
    shown = re.search(r"- Example: `onnxprune (.*?)` says `(.*?)`\.\n", entries()[code], re.DOTALL)
    assert shown, f"{command}: {line}"
    assert " ".join(shown[1].split()) == command
    head, _, tail = " ".join(shown[2].split()).partition("...")
    told = line.removeprefix("onnxprune: error: ")
    assert told.startswith(head.strip()), told
    assert told.removesuffix(f" [{code}]").endswith(tail.strip()), told


def test_every_code_is_tried() -> None:
    assert MISTAKES.keys() == CODES.keys()
