"""The zoo's networks are as large as is published, and their files have names, norms and a free batch.

Sizes are counted on torch's meta device, which has shapes and no numbers; that files say the same is shown for a few.
"""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import onnxprune
from onnxprune.errors import UserError
from onnxprune.models_zoo import building, training
from onnxprune.models_zoo.builders.built import Built
from onnxprune.models_zoo.pictures import Part, pictures
from onnxprune.models_zoo.registry import NETWORKS
from onnxprune.models_zoo.trainable import RECIPES, Recipe, recipe

WITHIN = 0.01
NORMED = {"resnet34": 3680, "resnet50": 4110, "mobilenet_v2": 313, "retinanet_r50_fpn": 250_000}
"""Published counts of M that take normalisations for two operations per element (OpenMMLab)."""


def counted(built: Built) -> tuple[float, float, float]:
    """Parameters, multiply-accumulates and normalised elements of one sample, in millions."""
    normed = 0

    def count(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal normed
        normed += output.numel()

    for module in built.module.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        built.module.eval()(*built.inputs.values())
    samples = len(next(iter(built.inputs.values())))
    params = sum(parameter.numel() for parameter in built.module.parameters())
    return params / 1e6, counter.get_total_flops() / 2 / samples / 1e6, normed / samples / 1e6


def near(found: float, published: float) -> bool:
    """Within 1 %, or within what rounding to the digits given can hide."""
    digits = f"{published:g}"
    hidden = 0.5 * 10.0 ** -len(digits.partition(".")[2]) if "." in digits else 0.0
    return abs(found - published) <= WITHIN * published + hidden


@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_are_those_published(name: str) -> None:
    published = NETWORKS[name].published
    with torch.device("meta"):
        params, macs, normed = counted(building.build(name))
    assert near(params, published.params), params
    assert near(macs, published.macs), macs
    if name in NORMED:
        assert near(macs + 2 * normed, NORMED[name]), macs + 2 * normed


def test_near_can_fail() -> None:
    assert near(25.8, 25.6)
    assert near(0.467, 0.46)
    assert not near(26.0, 25.6)
    assert not near(0.472, 0.46)
    assert not near(3702, 3664)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Built, Path]]:
    found = {}
    for name in ("slim_mobilenet_v2", "vit_cifar"):
        built = building.build(name)
        building.jitter(built.module)
        path = tmp_path_factory.mktemp("zoo") / f"{name}.onnx"
        building.write(built, path)
        found[name] = (built, path)
    return found


@pytest.mark.xdist_group("zoo")
def test_files_count_the_same(files: dict[str, tuple[Built, Path]]) -> None:
    for built, path in files.values():
        params, macs, _ = counted(built)
        cost = onnxprune.cost(onnxprune.load(path))
        statistics = sum(b.numel() for n, b in built.module.named_buffers() if n.endswith(("mean", "var")))
        assert cost.params == pytest.approx(1e6 * params + statistics, abs=64)  # constants of the graph
        assert cost.macs == pytest.approx(1e6 * macs, rel=1e-6)
        assert cost.unknown == ()


@pytest.mark.xdist_group("zoo")
def test_files_have_names_norms_and_a_free_batch(files: dict[str, tuple[Built, Path]]) -> None:
    for built, path in files.values():
        proto = onnx.load(path)
        stored = {weight.name for weight in proto.graph.initializer}
        assert {name for name, _ in built.module.named_parameters()} <= stored
        norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in built.module.modules())
        assert sum(node.op_type == "BatchNormalization" for node in proto.graph.node) == norms
        assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    nodes = {node.name for node in onnx.load(files["slim_mobilenet_v2"][1]).graph.node}
    assert {"features.1.conv.0.0", "classifier.1"} <= nodes


@pytest.mark.xdist_group("zoo")
def test_files_compute_what_the_networks_do(files: dict[str, tuple[Built, Path]]) -> None:
    import onnxruntime

    for built, path in files.values():
        image = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        (found,) = onnxruntime.InferenceSession(path).run(None, {"input": image.numpy()})
        with torch.no_grad():
            wanted = built.module(image).numpy()
        assert found.shape == (3, 10)
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_module_that_runs_several_times_has_a_node_for_each(tmp_path: Path) -> None:
    """onnxruntime takes no name twice; so RetinaNet's file once could not be run."""
    import onnxruntime

    class Levels(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Conv2d(3, 4, 1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            half = torch.nn.functional.avg_pool2d(image, 2)
            return self.head(image).mean((2, 3)) + self.head(half).mean((2, 3))

    built = Built(Levels(), {"image": torch.randn(2, 3, 8, 8)})
    path = tmp_path / "levels.onnx"
    building.write(built, path)
    assert [node.name for node in onnx.load(path).graph.node if node.op_type == "Conv"] == ["head", "head@2"]
    image = built.inputs["image"].numpy()
    (found,) = onnxruntime.InferenceSession(path).run(None, {"image": image})
    np.testing.assert_allclose(found, built.module(built.inputs["image"]).detach().numpy(), atol=1e-5)


def test_the_same_seed_gives_the_same_network() -> None:
    first, second, other = (building.build("slim_vgg", seed=seed).module.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["features.0.weight"], other["features.0.weight"])


@pytest.mark.parametrize(
    ("name", "sizes", "said"),
    [
        ("resnet51", {}, "'resnet50'"),
        ("resnet50", {"sid": 64}, "'side'"),
        ("resnet50", {"classes": 0}, "1 to 131072"),
        ("llama", {"heads": 6, "kv_heads": 5, "layers": 1}, "cannot be built"),
        ("crnn", {"width": 1}, "cannot be built with hidden=256, width=1, classes=37: .* too small"),
        ("unet", {"side": 7, "width": 4}, "too small"),
        ("yolov8_n", {"side": 33}, "Sizes of tensors must match"),
    ],
)
def test_mistakes(name: str, sizes: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        building.build(name, sizes)


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"install torch: pip install 'onnxprune\[torch\]'"):
        building.build("resnet20")


def _draw(folder: Path, count: int, *, splits: tuple[str, ...] = ("",)) -> Path:
    """Two classes: bright on the left, bright on the right."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in splits:
        for label in ("left", "right"):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                half = slice(0, 16) if label == "left" else slice(16, 32)
                pixels[:, half] += 100
                Image.fromarray(pixels).save(folder / split / label / f"{i:03}.png")
    return folder


def test_pictures_are_split_as_folders_say(tmp_path: Path) -> None:
    _draw(tmp_path / "data", 6, splits=("train", "test"))
    found = pictures(tmp_path / "data", 32)
    assert found.classes == ("left", "right")
    assert (len(found.train.labels), len(found.held_out.labels)) == (12, 12)
    left = found.train.pictures[found.train.labels == 0].mean((0, 1, 3))
    assert left[:16].mean() > left[16:].mean() + 80
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((tmp_path / "data").rglob("*.png")):
            file.write(path, path.relative_to(tmp_path))
    zipped = pictures(archive, 32)
    assert np.array_equal(zipped.train.pictures, found.train.pictures)
    assert np.array_equal(zipped.held_out.labels, found.held_out.labels)


def test_every_tenth_is_held_out_where_folders_say_nothing(tmp_path: Path) -> None:
    found = pictures(_draw(tmp_path / "data", 20), 32)
    assert (len(found.train.labels), len(found.held_out.labels)) == (36, 4)
    assert sorted(found.held_out.labels) == [0, 0, 1, 1]


def test_pictures_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no"):
        pictures(tmp_path / "none", 32)
    _draw(tmp_path / "data", 2)
    (tmp_path / "data" / "left" / "000.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"cannot read 'left/000\.png' in .*: no image of a known format$"):
        pictures(tmp_path / "data", 32)
    with pytest.raises(UserError, match="is neither a folder nor a file"):
        pictures(Path(os.devnull), 32)


def test_training_learns_and_repeats_itself() -> None:
    """Mirrored pictures are trained on as well, so the classes differ in height: bright above, bright below."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 64)
    images = rng.integers(0, 120, (64, 32, 32, 3), dtype=np.uint8)
    for i, label in enumerate(labels):
        images[i, 16 * label : 16 * label + 16] += 100
    part = Part(images, labels)
    losses: list[list[float]] = []
    for _ in range(2):
        module = building.build("slim_vgg", {"classes": 2}).module
        losses.append([])
        training.train(module, part, Recipe(4, batch=16, rate=0.02), on_step=lambda *step: losses[-1].append(step[2]))
    assert training.accuracy(module, part) > 0.9
    assert losses[0] == losses[1]
    assert len(losses[0]) == 16
    with pytest.raises(UserError, match="less than one batch"):
        training.train(module, part, Recipe(1), on_step=lambda *_: None)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_a_training_of_few_steps_ends(steps: int) -> None:
    """torch's cycle divides by zero at four."""
    rng = np.random.default_rng(0)
    part = Part(rng.integers(0, 255, (4 * steps, 32, 32, 3), np.uint8), rng.integers(0, 2, 4 * steps))
    done: list[int] = []
    module = building.build("slim_vgg", {"classes": 2}).module
    training.train(module, part, Recipe(1, batch=4), on_step=lambda *step: done.append(step[0]))
    assert done == [*range(1, steps + 1)]


def test_augmentation_moves_and_mirrors() -> None:
    image = np.arange(32 * 32 * 3, dtype=np.uint32).reshape(1, 32, 32, 3).astype(np.uint8)
    padded = np.pad(image, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    generator = torch.Generator().manual_seed(0)
    found = [training.augmented(padded, torch.zeros(1, dtype=torch.long), generator)[0] for _ in range(40)]
    cuts = {padded[0, y : y + 32, x : x + 32].tobytes() for y in range(9) for x in range(9)}
    plain = [cut.tobytes() in cuts for cut in found]
    assert 5 < sum(plain) < 35
    assert all(cut[:, ::-1].tobytes() in cuts for cut, is_plain in zip(found, plain, strict=True) if not is_plain)
    assert len({cut.tobytes() for cut in found}) > 20


def test_recipes() -> None:
    assert set(RECIPES) <= set(NETWORKS)
    assert recipe("resnet20").epochs == 10
    with pytest.raises(UserError, match="no recipe to train 'resnet50'"):
        recipe("resnet50")
