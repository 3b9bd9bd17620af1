"""A module says what the model says, keeps its names, trains, and goes back without touching what did not change."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import nets
import onnx
import pytest
import torch
from building import Net

import onnxprune
from onnxprune.bridge import counting, roles, verify_torch
from onnxprune.errors import UserError
from onnxprune.execution.inputs import random_feeds
from onnxprune.files.model import Model

NETS = [nets.resnet, nets.mobilenet, nets.densenet, nets.shufflenet, nets.transformer]


def loaded(proto: onnx.ModelProto, folder: Path) -> Model:
    path = folder / "model.onnx"
    onnx.save(proto, path)
    return onnxprune.load(path)


def images(model: Model) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in random_feeds(model).values()]


def pickled(module: torch.nn.Module) -> torch.nn.Module:
    return pickle.loads(pickle.dumps(module))  # noqa: S301  its own


def perturb(module: torch.nn.Module, names: set[str] | None = None) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.requires_grad and (names is None or name in names):
                weight.add_(0.05 * weight.abs().mean() * torch.randn(weight.shape, generator=generator))


@pytest.mark.parametrize("build", NETS)
def test_it_says_what_the_model_says(build: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    model = loaded(build(), tmp_path)
    module = onnxprune.to_torch(model)
    assert verify_torch(module, model).error < 2e-6
    assert set(module.state_dict()) <= set(model.weights)


@pytest.mark.parametrize("build", NETS)
def test_every_trainable_gets_a_gradient_and_goes_back(build: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    model = loaded(build(), tmp_path)
    module = onnxprune.to_torch(model).train()
    module(*images(model)).square().sum().backward()
    trains = {role.name for role in roles(model) if role.trains}
    assert trains == {name for name, weight in module.named_parameters() if weight.grad is not None}
    assert all(weight.grad.abs().max() > 0 for weight in module.parameters())
    module.eval()
    perturb(module)
    tuned = onnxprune.from_torch(module, onto=model)
    assert verify_torch(module, tuned).error < 2e-6
    assert verify_torch(module, model).error > 1e-3, "the perturbation moved nothing, so this shows nothing"


@pytest.mark.parametrize("build", NETS)
def test_copied_and_pickled(build: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    model = loaded(build(), tmp_path)
    module = onnxprune.to_torch(model)
    inputs = images(model)
    for other in (copy.deepcopy(module), pickled(module)):
        assert torch.equal(other(*inputs), module(*inputs))
        assert list(other.state_dict()) == list(module.state_dict())
        assert {n for n, _ in other.named_parameters()} == {n for n, _ in module.named_parameters()}
        perturb(other)
        assert verify_torch(other, onnxprune.from_torch(other, onto=model)).error < 2e-6
        assert not torch.equal(other(*inputs), module(*inputs))


def test_what_did_not_change_is_the_same_bytes(tmp_path: Path) -> None:
    proto = nets.resnet()
    proto.metadata_props.add(key="author", value="somebody")
    model = loaded(proto, tmp_path)
    module = onnxprune.to_torch(model)
    perturb(module, {"fc.weight"})
    onnxprune.save(onnxprune.from_torch(module, onto=model), tmp_path / "tuned.onnx")
    before, after = onnx.load(tmp_path / "model.onnx"), onnx.load(tmp_path / "tuned.onnx")
    old = {item.name: item.SerializeToString() for item in before.graph.initializer}
    new = {item.name: item.SerializeToString() for item in after.graph.initializer}
    assert [name for name in old if old[name] != new[name]] == ["fc.weight"]
    assert list(before.graph.node) == list(after.graph.node)
    assert before.metadata_props == after.metadata_props
    assert before.opset_import == after.opset_import


def test_external_data_stays_external(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(nets.resnet(), path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    model = onnxprune.load(path)
    module = onnxprune.to_torch(path)
    perturb(module)
    onnxprune.save(onnxprune.from_torch(module, onto=model), tmp_path / "tuned.onnx")
    assert (tmp_path / "tuned.onnx.data").exists()
    assert verify_torch(module, onnxprune.load(tmp_path / "tuned.onnx")).error < 2e-6


def test_shapes_and_names_are_checked(tmp_path: Path) -> None:
    model = loaded(nets.resnet(), tmp_path)
    module = onnxprune.to_torch(model)
    plain = torch.nn.Module()
    plain.nothing = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"'nothing.weight' is no initializer"):
        onnxprune.from_torch(plain, onto=model)
    with pytest.raises(UserError, match=r"'stem.conv.weight' is missing in the module"):
        onnxprune.from_torch(torch.nn.Module(), onto=model)
    module.get_submodule("fc").weight = torch.nn.Parameter(torch.zeros(3, 12))
    with pytest.raises(UserError, match=r"'fc.weight' has shape \[3, 12\], the model's has \[5, 12\]"):
        onnxprune.from_torch(module, onto=model)


def test_nan_is_not_written(tmp_path: Path) -> None:
    model = loaded(nets.resnet(), tmp_path)
    module = onnxprune.to_torch(model)
    with torch.no_grad():
        module.get_parameter("fc.bias")[0] = torch.nan
    with pytest.raises(UserError, match=r"'fc.bias' holds NaN"):
        onnxprune.from_torch(module, onto=model)


def test_an_operator_without_translation_is_named(tmp_path: Path) -> None:
    net = Net()
    net.output(net.op("my.domain::Odd", net.input("x", 2, 3), name="odd one", made=(2, 3)))
    with pytest.raises(UserError, match=r"'Odd' of domain 'my.domain' \(node 'odd one'\) has no translation"):
        onnxprune.to_torch(loaded(net.proto(), tmp_path))


def test_inputs_by_name_and_outputs_in_order(tmp_path: Path) -> None:
    net = Net()
    a, b = net.input("a", 2, 3), net.input("b", 2, 3)
    net.output(net.op("Sub", a, b), net.op("Mul", a, b))
    module = onnxprune.to_torch(loaded(net.proto(), tmp_path))
    x, y = torch.tensor([[1.0, 2, 3]] * 2), torch.tensor([[5.0, 7, 11]] * 2)
    difference, product = module(b=y, a=x)
    assert difference.tolist() == [[-4, -5, -8]] * 2
    assert product.tolist() == [[5, 14, 33]] * 2


def test_one_initializer_is_one_parameter(tmp_path: Path) -> None:
    net = Net()
    table = net.weight(11, 6, name="tied.weight")
    x = net.op("Gather", table, net.input("ids", 2, 4, dtype=onnx.TensorProto.INT64))
    net.output(net.op("MatMul", x, net.op("Transpose", table, perm=[1, 0])))
    model = loaded(net.proto(), tmp_path)
    module = onnxprune.to_torch(model)
    assert [name for name, _ in module.named_parameters()] == ["tied.weight"]
    perturb(module)
    assert verify_torch(module, onnxprune.from_torch(module, onto=model)).error < 2e-6


@pytest.mark.parametrize(
    "name", ["", "a..b", "forward", "graph.weight", 'with "quotes"', ".x", "x.", "a", "w.parameters"]
)
def test_odd_names_come_back(name: str, tmp_path: Path) -> None:
    net = Net()
    x = net.input("input.1", 2, 3)
    first = net.op("MatMul", x, net.weight(3, 4, name=name))
    net.output(net.op("MatMul", first, net.weight(4, 5, name="a.b")))
    model = loaded(net.proto(), tmp_path)
    module = onnxprune.to_torch(model)
    assert "a.b" in module.state_dict() or name == "a"
    assert len(module.state_dict()) == 2
    perturb(module)
    tuned = onnxprune.from_torch(pickled(module), onto=model)
    assert verify_torch(module, tuned).error < 2e-6
    assert verify_torch(module, model).error > 1e-3


def test_without_torch_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(nets.resnet(), tmp_path)
    module = onnxprune.to_torch(model)
    monkeypatch.setitem(sys.modules, "torch", None)
    for call in (lambda: onnxprune.to_torch(model), lambda: onnxprune.from_torch(module, onto=model)):
        with pytest.raises(UserError, match=r"pip install 'onnxprune\[torch\]'"):
            call()


def test_sizes_are_computed_as_the_graph_computes_them() -> None:
    assert counting.single(7 * counting.single(8 / 7)) == 8, "float32 rounds up what float64 leaves below"
    assert 7 * counting.single(8 / 7) != 8
    assert counting.combine("Div", "int", [-7, 7], [2]) == [-3, 3]
    assert counting.combine("Add", "int", [[1], [2]], [10, 20]) == [[11, 21], [12, 22]]
    assert counting.transpose([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], [2, 0, 1]) == [[[1, 3], [5, 7]], [[2, 4], [6, 8]]]
    assert counting.reshape([1, 2, 3, 4], [-1, 2]) == [[1, 2], [3, 4]]
    assert counting.cut([1, 2, 3, 4], [-1], [-5], [0], [-2]) == [4, 2]
    with pytest.raises(UserError, match="size 0"):
        counting.cut([], [0], [1], [1], [1])


def test_everything_in_double_precision(tmp_path: Path) -> None:
    model = loaded(nets.transformer(), tmp_path)
    double = onnxprune.to_torch(model, dtype=torch.float64)
    (x,) = images(model)
    y = double(x)
    assert y.dtype == torch.float64
    assert 0 < (y - onnxprune.to_torch(model)(x)).abs().max() < 1e-5
    assert onnxprune.from_torch(double, onto=model).weights["q.weight"] is model.weights["q.weight"]
