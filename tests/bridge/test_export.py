"""What comes out of `export` is the module: its names, its BatchNormalization, any batch size; or one line says why."""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import onnxprune
from onnxprune.errors import UserError, VerificationError

NOISE = 1e-5


class Net(nn.Module):
    """Convolutions with normalisation, a class token, a linear layer on more than matrices, dropout, equal vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.bn2 = nn.BatchNorm2d(8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x))).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        return self.head(self.drop(x)).mean(1), x


def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "net.onnx"
    module = net().train()
    found = onnxprune.export(module, torch.randn(1, 3, 10, 10), path)
    assert found.error < NOISE
    assert found.renamed == ()
    assert module.training
    assert module.drop.training
    return path


def test_names_and_batchnorm_are_kept(written: Path) -> None:
    proto = onnx.load(written)
    onnx.checker.check_model(proto, full_check=True)
    kinds = collections.Counter(node.op_type for node in proto.graph.node)
    assert (kinds["BatchNormalization"], kinds["Conv"], kinds["Dropout"]) == (2, 2, 0)
    weights = {item.name: tuple(item.dims) for item in proto.graph.initializer}
    state = {name: tuple(tensor.shape) for name, tensor in net().state_dict().items() if "tracked" not in name}
    assert weights.items() >= state.items()
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert [len(node.input) for node in convolutions] == [2, 3], "no bias where the module has none"
    dim = proto.graph.input[0].type.tensor_type.shape.dim[0]
    assert dim.dim_param == "batch"


def test_it_prunes_and_trains(written: Path) -> None:
    model = onnxprune.load(written)
    coupling = onnxprune.analyze(model)
    plan = onnxprune.select(coupling, onnxprune.score(model, coupling, "l1"), ratio=0.5)
    pruned = onnxprune.apply(model, plan)
    assert onnxprune.verify(model, pruned, plan).require().error is not None
    assert pruned.weights["bn1.running_mean"].shape == (4,)
    module = onnxprune.to_torch(pruned)
    assert {"conv1.weight", "bn1.weight", "token", "head.weight"} <= set(dict(module.named_parameters()))


class Words(nn.Module):
    """Two inputs, integers, a mask, an option that is no input, and a matrix that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.out = nn.Linear(16, 50, bias=False)
        self.out.weight = self.table.weight

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None, scale: float = 2.0) -> torch.Tensor:
        x = self.table(ids)
        if mask is not None:
            x = x * mask.unsqueeze(-1).to(x.dtype)
        return self.out(x) * scale


def test_several_inputs_by_name_with_free_axes(tmp_path: Path) -> None:
    inputs = {"ids": torch.randint(0, 50, (1, 6)), "mask": torch.ones(1, 6, dtype=torch.bool)}
    dynamic = {name: {0: "batch", 1: "time"} for name in inputs}
    found = onnxprune.export(Words(), inputs, tmp_path / "x.onnx", dynamic=dynamic)
    assert found.error < NOISE
    assert found.renamed == (), "a tied matrix is there once, and that is enough"
    shapes = [[dim.dim_param for dim in value.type.tensor_type.shape.dim] for value in found.model.graph.input]
    assert shapes == [["batch", "time"]] * 2
    assert [value.name for value in found.model.graph.input] == ["ids", "mask"]


def test_half_floats_and_opsets(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).half()
    found = onnxprune.export(module, torch.randn(2, 4).half(), tmp_path / "x.onnx", opset=21)
    assert found.model.opset == 21
    assert found.error < 2e-2
    assert {weight.dtype for weight in found.model.weights.values()} == {onnx.TensorProto.FLOAT16}


class Particular(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x if x.shape[0] == 2 else x


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Breaks(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of\ncheese")


@pytest.mark.parametrize(
    ("module", "inputs", "options", "message"),
    [
        (Branches(), torch.randn(2, 4), {}, "forward decides by the values of tensors: use torch.where"),
        (Breaks(), torch.randn(2, 4), {}, "torch cannot export the module: RuntimeError: out of cheese"),
        (nn.Linear(4, 2), "text", {}, "example input 'input' is no tensor"),
        (nn.Linear(4, 2), {}, {}, "give an example of each input"),
        (nn.Linear(4, 2), torch.randn(2, 4), {"dynamic": {"x": {0: "b"}}}, "there is no input 'x'"),
        (nn.Linear(4, 2), torch.randn(2, 4), {"dynamic": {"input": {2: "b"}}}, "so there is no axis 2"),
        (Words(), {"ids": torch.zeros(2, 3).long(), "mask": torch.ones(2, 4)},
         {"dynamic": {"ids": {1: "t"}, "mask": {1: "t"}}}, "'t' is 3 in the example of 'ids' and 4 in that of 'mask'"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(
    module: nn.Module, inputs: object, options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        onnxprune.export(module, inputs, tmp_path / "x.onnx", **options)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_size_that_is_written_into_forward_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="forward can do with 2 in axis 0 of 'x' alone, so 'batch' cannot be free"):
        onnxprune.export(Particular(), torch.randn(2, 4), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []
    found = onnxprune.export(Particular(), torch.randn(2, 4), tmp_path / "x.onnx", dynamic={})
    assert found.error < NOISE
    assert not found.silent
    assert onnxprune.export(Particular(), torch.zeros(2, 4), tmp_path / "y.onnx", dynamic={}).silent


def test_an_export_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxprune.bridge import exporting

    made: Callable[..., object] = exporting._program

    def other(module: nn.Module, *rest: object) -> object:
        return made(net(), *rest)

    monkeypatch.setattr(exporting, "_program", other)
    module = net()
    module.load_state_dict({name: 1.1 * tensor for name, tensor in module.state_dict().items()})
    with pytest.raises(VerificationError, match="the exported model differs from the module: output 'mean' by"):
        onnxprune.export(module.eval(), torch.randn(2, 3, 10, 10), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []
