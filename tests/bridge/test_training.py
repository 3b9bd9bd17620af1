"""In training mode a module does what the one does that was exported: outputs, gradients, running statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from building import Net
from onnx import TensorProto

import onnxprune
from onnxprune.bridge import roles, synchronise_batchnorm, verify_torch
from onnxprune.bridge.norm import switches, synchronised
from onnxprune.errors import UserError
from onnxprune.files.model import Model


def loaded(proto: onnx.ModelProto, folder: Path) -> Model:
    onnx.save(proto, folder / "model.onnx")
    return onnxprune.load(folder / "model.onnx")


class Block(torch.nn.Module):
    """What a residual network consists of, with every kind of batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(8, momentum=0.2, eps=1e-3)
        self.conv2 = torch.nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.bn2 = torch.nn.BatchNorm2d(8)
        self.fc = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(x + self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


def exported(module: torch.nn.Module, x: torch.Tensor, path: Path) -> Model:
    """With its batch normalisations and all names."""
    import onnxscript

    program = torch.onnx.export(
        module, (x,), dynamo=True, optimize=False, verbose=False, dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    onnxscript.optimizer.fold_constants(program.model)
    onnxscript.optimizer.remove_unused_nodes(program.model)
    program.save(path)
    return onnxprune.load(path)


def test_training_is_that_of_the_exported_module(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Block()
    for weight in [*module.parameters(), module.bn1.running_mean, module.bn2.running_mean]:
        weight.data += 0.1 * torch.randn_like(weight)
    x, target = torch.randn(6, 3, 8, 8), torch.randn(6, 5)
    model = exported(module.eval(), x, tmp_path / "model.onnx")
    twin = onnxprune.to_torch(model)
    assert dict(module.named_parameters()).keys() <= dict(twin.named_parameters()).keys()
    extra = set(dict(twin.named_parameters())) - set(dict(module.named_parameters()))
    assert not any(twin.get_parameter(name).any() for name in extra), "more than biases that the exporter made up"
    for each in (module.train(), twin.train()):
        torch.nn.functional.mse_loss(each(x), target).backward()
    assert torch.allclose(twin(x), module(x), rtol=1e-5, atol=1e-6)
    for name, weight in module.named_parameters():
        other = twin.get_parameter(name)
        assert weight.grad is not None
        assert (weight.grad - other.grad).abs().max() < 1e-4 * weight.grad.abs().max() + 1e-7, name
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point():
            assert torch.allclose(buffer, twin.get_buffer(name), rtol=1e-5, atol=1e-6), name
    assert not torch.allclose(twin(x), twin.eval()(x), atol=1e-2), "training and evaluation do not differ"
    with torch.no_grad():
        module.fc.bias.add_(1.0)
    assert verify_torch(module, onnxprune.from_torch(module, onto=model)).error < 2e-6  # a module of anybody's own
    assert verify_torch(twin, onnxprune.from_torch(twin, onto=model)).error < 2e-6
    assert verify_torch(module, model).error > 1e-2


def test_running_statistics_go_back(tmp_path: Path) -> None:
    net = Net()
    net.output(net.norm(net.conv(net.image(), 4, name="conv"), name="bn"))
    model = loaded(net.proto(), tmp_path)
    module = onnxprune.to_torch(model).train()
    before = module.get_buffer("bn.mean").clone()
    with torch.no_grad():
        module(torch.randn(2, 3, 6, 6) + 1)
    tuned = onnxprune.from_torch(module, onto=model)
    assert not np.allclose(before, tuned.weights["bn.mean"].array())
    assert verify_torch(module, tuned).error < 2e-6


def test_a_batch_norm_in_training_mode_uses_the_batch_always(tmp_path: Path) -> None:
    net = Net()
    x = net.conv(net.image(), 4, name="conv")
    inputs = [net.positive(4), net.weight(4), net.weight(4, name="mean"), net.positive(4, name="var")]
    net.output(net.ops("BatchNormalization", 3, x, *inputs, training_mode=1)[0])
    model = loaded(net.proto(), tmp_path)
    module = onnxprune.to_torch(model)
    assert verify_torch(module, model).error < 2e-6
    before = module.get_buffer("mean").clone()
    module(torch.ones(2, 3, 6, 6))
    assert torch.equal(module.get_buffer("mean"), before)
    module.train()(torch.ones(2, 3, 6, 6))
    assert not torch.equal(module.get_buffer("mean"), before)


def test_a_batch_norm_by_computed_statistics(tmp_path: Path) -> None:
    net = Net()
    x = net.conv(net.image(), 4, name="conv")
    mean = net.squeeze(net.op("ReduceMax", x, axes=[0, 2, 3]), 0, 2, 3)
    net.output(net.op("BatchNormalization", x, net.positive(4), net.weight(4), mean, net.positive(4, name="var")))
    model = loaded(net.proto(), tmp_path)
    module = onnxprune.to_torch(model)
    assert verify_torch(module, model).error < 2e-6
    y = module(x := torch.randn(2, 3, 6, 6))
    assert torch.equal(module.train()(x), y)
    y.sum().backward()
    assert module.get_parameter("conv.bias").grad is not None


def test_dropout_drops_in_training_only(tmp_path: Path) -> None:
    net = Net()
    net.output(net.op("Dropout", net.input("x", 4, 100), net.scalar(0.25)))
    module = onnxprune.to_torch(loaded(net.proto(), tmp_path))
    x = torch.ones(4, 100)
    assert torch.equal(module(x), x)
    torch.manual_seed(0)
    dropped = module.train()(x)
    assert 60 < (dropped == 0).sum() < 140
    assert torch.allclose(dropped[dropped != 0], torch.tensor(4 / 3))


def test_statistics_of_all_processes_are_switched_together(tmp_path: Path) -> None:
    net = Net()
    net.output(net.norm(net.conv(net.norm(net.image(), name="a"), 4, name="conv"), name="b"))
    module = onnxprune.to_torch(loaded(net.proto(), tmp_path))
    assert synchronise_batchnorm(module) == 2
    assert all(each.synchronise for each in switches(module))
    synchronise_batchnorm(module, on=False)
    assert not any(each.synchronise for each in switches(module))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_floats_have_masters_and_come_back_to_the_bit(kind: str, tmp_path: Path) -> None:
    import ml_dtypes

    number = TensorProto.FLOAT16 if kind == "float16" else TensorProto.BFLOAT16
    dtype = np.float16 if kind == "float16" else ml_dtypes.bfloat16
    net = Net()
    rng = np.random.default_rng(0)
    y = net.op("Cast", net.input("x", 2, 6), to=number)
    for name, shape in (("a", (6, 7)), ("b", (7, 3))):
        net.weights[name] = onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(dtype), name)
        y = net.op("MatMul", y, name)
    net.output(net.op("Cast", y, to=TensorProto.FLOAT))
    model = loaded(net.proto(), tmp_path)
    module = onnxprune.to_torch(model)
    assert module.get_parameter("a").dtype == torch.float32
    with torch.no_grad():
        module.get_parameter("b").add_(0.125)
    tuned = onnxprune.from_torch(module, onto=model)
    assert tuned.weights["a"] is model.weights["a"]
    assert tuned.weights["b"].dtype == number
    gained = tuned.weights["b"].array().astype(np.float32) - model.weights["b"].array().astype(np.float32)
    assert np.abs(gained - 0.125).max() < 0.01
    assert verify_torch(module, tuned).passed if kind == "float16" else True


def test_gradients_pass_quantisers_straight_through(tmp_path: Path) -> None:
    net = Net()
    scale, zero = net.scalar(0.1), net.const(128, np.uint8)
    x = net.op("MatMul", net.input("x", 1, 4), net.weight(4, 4, name="w"))
    q = net.op("QuantizeLinear", x, scale, zero)
    net.output(net.op("DequantizeLinear", q, scale, zero))
    model = loaded(net.proto(), tmp_path)
    module = onnxprune.to_torch(model)
    x = torch.tensor([[1.0, 2, 3, 400]], requires_grad=True)
    w = module.get_parameter("w")
    module(x).sum().backward()
    inside = ((x @ w).detach() > -12.8) & ((x @ w).detach() < 12.7)
    assert torch.allclose(x.grad, (inside * w.detach()).sum(1))
    assert [role.name for role in roles(model) if role.trains] == ["w"]
    assert "quantisation" in next(role.why for role in roles(model) if not role.trains)


def test_merged_vectors_train_apart_and_are_merged_again(tmp_path: Path) -> None:
    net = Net()
    x = net.conv(net.image(), 4, bias=False, name="conv")
    shared = net.weight(4, 1, 1, name="a.bias")
    net.nodes.append(onnx.helper.make_node("Identity", [shared], ["b.bias"], name="copy"))
    net.output(net.conv(net.op("Add", net.op("Sin", net.op("Add", x, shared)), "b.bias"), 3, name="last"))
    model = loaded(net.proto(), tmp_path)
    module = onnxprune.to_torch(model)
    assert "b.bias" in dict(module.named_parameters())
    assert len(list(module.parameters())) == 5
    assert list(onnxprune.from_torch(module, onto=model).graph.node) == list(model.graph.node)
    with torch.no_grad():
        module.get_parameter("b.bias").add_(1.0)
    tuned = onnxprune.from_torch(module, onto=model)
    assert set(tuned.weights) == {*model.weights, "b.bias"} - {"a.bias"}
    onnxprune.save(tuned, tmp_path / "tuned.onnx")
    assert verify_torch(module, onnxprune.load(tmp_path / "tuned.onnx")).error < 2e-6
    assert verify_torch(module, tuned).error < 2e-6
    assert verify_torch(module, model).error > 1e-2


def test_roles_and_patterns(tmp_path: Path) -> None:
    net = Net()
    x = net.op("Sub", net.image(), net.weight(3, 1, 1, name="pixel.mean"))
    x = net.conv(x, 4, name="stem")
    x = net.op("Mul", net.norm(x, name="bn"), net.weight(4, 1, 1, name="layer_scale"))
    x = net.op("Add", x, net.weight(2, 4, 6, 6, name="odd"))
    net.output(net.op("Mul", x, net.scalar(0.5)))
    model = loaded(net.proto(), tmp_path)
    decided = {role.name: role for role in roles(model)}
    trains = {name for name, role in decided.items() if role.trains}
    assert trains == {"stem.weight", "stem.bias", "bn.weight", "bn.bias", "layer_scale"}
    assert "before any layer" in decided["pixel.mean"].why
    assert decided["bn.mean"].statistic
    module = onnxprune.to_torch(model, train=["odd", "pixel.*"], freeze=["stem.*"])
    assert {n for n, w in module.named_parameters() if w.requires_grad} == trains - {"stem.weight", "stem.bias"} | {
        "odd",
        "pixel.mean",
    }
    assert not module.get_parameter("stem.weight").requires_grad
    with pytest.raises(UserError, match=r"freeze: no weight matches 'stam.weight'; did you mean 'stem.weight'"):
        onnxprune.to_torch(model, freeze=["stam.weight"])


def test_what_only_a_decision_reads_does_not_train(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", 2, 4)
    gate = net.op("Cast", net.op("Less", net.op("MatMul", x, net.weight(4, 4, name="gate")), net.scalar(0.0)), to=1)
    net.output(net.op("Mul", gate, net.op("MatMul", x, net.weight(4, 4, name="w"))))
    decided = {role.name: role for role in roles(loaded(net.proto(), tmp_path))}
    assert decided["w"].trains
    assert not decided["gate"].trains
    assert "no gradient comes back" in decided["gate"].why


def test_what_is_added_to_places_that_a_size_gives_does_not_train(tmp_path: Path) -> None:
    """Anchors of a detector: where they lie follows from how large the features are, not from what they hold."""
    net = Net()
    x = net.conv(net.image(), 4, name="stem")
    places = net.op("Cast", net.op("Shape", x), to=TensorProto.FLOAT)
    boxes = net.op("Add", net.op("Reshape", places, net.ints(1, 1, 4)), net.weight(1, 3, 4, name="anchors"))
    net.output(net.op("ReduceSum", boxes, keepdims=1))
    net.output(x)
    decided = {role.name: role for role in roles(loaded(net.proto(), tmp_path))}
    assert not decided["anchors"].trains
    assert decided["stem.weight"].trains


def test_compiled_in_one_piece(tmp_path: Path) -> None:
    import nets

    for build in (nets.resnet, nets.transformer):
        model = loaded(build(), tmp_path)
        module = onnxprune.to_torch(model)
        from onnxprune.execution.inputs import random_feeds

        inputs = [torch.from_numpy(array) for array in random_feeds(model).values()]
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
        assert torch.allclose(compiled(*inputs), module(*inputs), atol=1e-6)
        assert verify_torch(compiled, onnxprune.from_torch(compiled, onto=model)).error < 2e-6


def test_mixed_precision(tmp_path: Path) -> None:
    import nets

    module = onnxprune.to_torch(loaded(nets.resnet(), tmp_path)).train()
    with torch.autocast("cpu", torch.bfloat16):
        y = module(torch.randn(2, 3, 8, 8))
        y.float().square().mean().backward()
    assert all(weight.grad is not None and weight.grad.dtype == torch.float32 for weight in module.parameters())


def test_bodies_of_control_flow(tmp_path: Path) -> None:
    """If chooses, Loop repeats; a weight that only a body reads trains if a pattern says so."""
    x = onnx.helper.make_tensor_value_info("x", 1, [2, 3])
    node, info, graph = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.helper.make_graph
    body = graph(
        [
            node("MatMul", ["state", "w"], ["product"]),
            node("Tanh", ["product"], ["next"]),
            node("Identity", ["going"], ["still"]),
            node("ReduceSum", ["next"], ["row"], keepdims=0),
        ],
        "body",
        [info("i", 7, []), info("going", 9, []), info("state", 1, [2, 3])],
        [info("still", 9, []), info("next", 1, [2, 3]), info("row", 1, [])],
    )
    branches = [graph([node(op, ["last"], [op])], op, [], [info(op, 1, [2, 3])]) for op in ("Exp", "Neg")]
    nodes = [
        node("Loop", ["count", "", "x"], ["last", "rows"], body=body, name="loop"),
        node("ReduceSum", ["rows"], ["total"], keepdims=0),
        node("Greater", ["total", "zero"], ["positive"]),
        node("If", ["positive"], ["y"], then_branch=branches[0], else_branch=branches[1], name="if"),
    ]
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((3, 3)).astype(np.float32), "count": np.int64(4), "zero": np.float32(0)}
    initializers = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    main = graph(nodes, "main", [x], [info("y", 1, [2, 3]), info("rows", 1, [4])], initializers)
    model = loaded(
        onnx.helper.make_model(main, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), tmp_path
    )
    (role,) = (role for role in roles(model) if role.name == "w")
    assert not role.trains
    assert "stands in a body of Loop 'loop', which runs without gradients" in role.why
    closed = onnxprune.to_torch(model)
    assert not any(each.requires_grad for each in closed.parameters())
    assert not closed(torch.randn(2, 3, requires_grad=True))[0].requires_grad
    module = onnxprune.to_torch(model, train=["w"])
    for seed in range(4):
        assert verify_torch(module, model, seed=seed).error < 2e-6
        assert verify_torch(closed, model, seed=seed).error < 2e-6
    assert [name for name, _ in module.named_parameters()] == ["w"]
    module(torch.randn(2, 3))[0].sum().backward()
    assert module.get_parameter("w").grad.abs().max() > 0


def test_the_batches_of_all_processes_as_one(tmp_path: Path) -> None:
    """With one process it is plain batch normalisation; two are compared where finetuning is tested."""
    from torch import distributed

    torch.manual_seed(0)
    x, scale, shift = torch.randn(4, 3, 5, 5), torch.rand(3) + 0.5, torch.randn(3)
    results = []
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        for together in (False, True):
            leaves = [tensor.clone().requires_grad_() for tensor in (x, scale, shift)]
            mean, var = torch.zeros(3), torch.ones(3)
            if together:
                y = synchronised(*leaves, mean, var, 0.1, 1e-5)
            else:
                y = torch.nn.functional.batch_norm(leaves[0], mean, var, *leaves[1:], True, 0.1, 1e-5)
            y.sin().sum().backward()
            results.append([y.detach(), mean, var, *(leaf.grad for leaf in leaves)])
    finally:
        distributed.destroy_process_group()
    for plain, ours in zip(*results, strict=True):
        assert torch.allclose(plain, ours, rtol=1e-4, atol=1e-5)


def test_a_loop_that_runs_no_time_stacks_nothing(tmp_path: Path) -> None:
    node, info, graph = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.helper.make_graph
    body = graph(
        [node("Neg", ["s"], ["next"]), node("Identity", ["going"], ["on"]), node("Abs", ["s"], ["row"])],
        "body",
        [info("i", 7, []), info("going", 9, []), info("s", 1, [2, 3])],
        [info("on", 9, []), info("next", 1, [2, 3]), info("row", 1, [2, 3])],
    )
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Loop", ["count", "", "h"], ["y", "rows"], body=body)]
    weights = [
        onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "w"),
        onnx.numpy_helper.from_array(np.asarray(np.int64(0)), "count"),
    ]
    outputs = [info("y", 1, [2, 3]), info("rows", 1, [None, None, 3])]
    main = graph(nodes, "main", [info("x", 1, [2, 3])], outputs, weights)
    proto = onnx.helper.make_model(main, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    model = loaded(proto, tmp_path)
    module = onnxprune.to_torch(model)
    verify_torch(module, model).require()
    assert module(torch.ones(2, 3))[1].shape == (0, 2, 3)


def test_recurrent_layers_compile_with_gradients(tmp_path: Path) -> None:
    info = onnx.helper.make_tensor_value_info
    rng = np.random.default_rng(0)
    shapes = {"w": (1, 20, 4), "r": (1, 20, 5), "b": (1, 40)}
    weights = [onnx.numpy_helper.from_array(rng.random(s, np.float32), name) for name, s in shapes.items()]
    layer = onnx.helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=5)
    main = onnx.helper.make_graph([layer], "main", [info("x", 1, [3, 2, 4])], [info("y", 1, [3, 1, 2, 5])], weights)
    proto = onnx.helper.make_model(main, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    module = onnxprune.to_torch(loaded(proto, tmp_path))
    x = torch.randn(3, 2, 4)
    made = torch.compile(module, backend="aot_eager")(x)
    made.sum().backward()
    assert torch.allclose(made, module(x), atol=1e-6)
    assert module.get_parameter("w").grad.abs().max() > 0


def test_an_output_may_be_a_weight(tmp_path: Path) -> None:
    info = onnx.helper.make_tensor_value_info
    weight = onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    outputs = [info("y", 1, [2, 3]), info("w", 1, [3, 3])]
    main = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "main", [info("x", 1, [2, 3])], outputs, [weight]
    )
    proto = onnx.helper.make_model(main, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    model = loaded(proto, tmp_path)
    verify_torch(onnxprune.to_torch(model), model).require()
