"""`onnxprune export`: from a function of the user's to a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from .conftest import Said

Run = Callable[..., Said]

SOURCE = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 4)
    def forward(self, ids, mask):
        return self.table(ids) * mask.unsqueeze(-1).float()

def no_module():
    return 7

def broken():
    raise ValueError("no weights here")
"""


@pytest.fixture
def here(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A module of the user's in the current folder; another name for every test, since Python remembers modules."""
    name = f"mine_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    return name


def without_progress(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.endswith(" ...")]


def test_a_module_becomes_a_file(run: Run, here: str, tmp_path: Path) -> None:
    said = run("export", f"{here}:small", "--input", "1,3,8,8")
    assert said.code == 0, said.err
    assert "opset" in said.out
    assert "outputs equal to the module's within" in said.out
    assert without_progress(said.err) == ["wrote small.onnx"]
    proto = onnx.load(str(tmp_path / "small.onnx"))
    assert [node.op_type for node in proto.graph.node].count("BatchNormalization") == 1
    assert {"0.weight", "1.running_var", "4.bias"} <= {item.name for item in proto.graph.initializer}
    assert run("prune", "small.onnx", "--ratio", "0.5", "--no-bench", "-o", "p.onnx").code == 0


def test_names_types_and_free_axes(run: Run, here: str, tmp_path: Path) -> None:
    argv = ["--input", "ids:int64:1,time=5", "--input", "mask:bool:1,time=5", "-o", "w.onnx", "--json"]
    data = run("export", f"{here}:Words", *argv).data
    assert data["renamed"] == []
    assert data["error"] < 1e-5
    proto = onnx.load(str(tmp_path / "w.onnx"))
    assert [value.name for value in proto.graph.input] == ["ids", "mask"]
    kinds = [value.type.tensor_type.elem_type for value in proto.graph.input]
    assert kinds == [onnx.TensorProto.INT64, onnx.TensorProto.BOOL]
    assert [dim.dim_param for dim in proto.graph.input[0].type.tensor_type.shape.dim] == ["batch", "time"]


def test_everything_fixed_and_merged(run: Run, here: str, tmp_path: Path) -> None:
    argv = ["--input", "2,3,8,8", "--static-batch", "--fold-batchnorm", "--opset", "18", "-o", "s.onnx"]
    said = run("export", f"{here}:small", *argv)
    assert said.code == 0, said.err
    assert "Not there under their own names" in said.out
    proto = onnx.load(str(tmp_path / "s.onnx"))
    assert [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim] == [2, 3, 8, 8]
    assert proto.opset_import[0].version == 18
    assert not any(node.op_type == "BatchNormalization" for node in proto.graph.node)


@pytest.mark.parametrize(
    ("function", "argv", "message"),
    [
        ("no_module", ["--input", "1,3"], "returns int: it must return a torch.nn.Module"),
        ("broken", ["--input", "1,3"], "ValueError: no weights here"),
        ("nothing", ["--input", "1,3"], "there is no 'nothing'"),
        ("small", ["--input", "1,x"], "'1,x' is no input, such as 1,3,224,224 or ids:int64:1,time=128"),
        ("small", ["--input", "a:int65:1,3"], "'int65' in 'a:int65:1,3' is no type"),
        ("small", ["--input", "a:1,3", "--input", "1,3"], "give all inputs a name, or none"),
        ("small", ["--input", "1,3,2,2"], "torch cannot export the module"),
        ("small", [], "--input"),
    ],
)
def test_mistakes_are_one_line(
    run: Run, here: str, tmp_path: Path, function: str, argv: list[str], message: str
) -> None:
    said = run("export", f"{here}:{function}", *argv)
    assert said.code == 2
    assert message in said.err
    assert len(without_progress(said.err)) == 1, said.err
    assert not list(tmp_path.glob("*.onnx"))
