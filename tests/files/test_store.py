"""What is saved unchanged is equal, files outside the model's folder stay unread, and no file is half written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import UserError
from onnxprune.files import store
from onnxprune.files.model import Model
from onnxprune.files.replacing import check_writable
from onnxprune.files.store import load, save
from onnxprune.files.tensors import Tensor

Floats = np.ndarray


def plain(**more: object) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.random((64, 32), dtype=np.float32), "w")
    bias = helper.make_tensor("b", TensorProto.FLOAT, [64], rng.random(64, dtype=np.float32))
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="fc", transB=1)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32])]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", 1, ["n", 64])], [weight, bias])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7, **more)  # type: ignore[arg-type]  # pass-through
    helper.set_model_props(model, {"author": "me"})
    return model


def rich() -> onnx.ModelProto:
    """Everything that a model may hold beside nodes and weights."""
    model = plain(producer_name="p", doc_string="docs")
    model.opset_import.append(helper.make_opsetid("my.ops", 3))
    function = helper.make_function(
        "my.ops", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 13)]
    )
    model.functions.append(function)
    graph = model.graph
    graph.node.append(helper.make_node("Twice", ["y"], ["y2"], domain="my.ops"))
    branch = helper.make_graph(
        [helper.make_node("Add", ["y", "inner"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", 1, None)],
        [numpy_helper.from_array(np.ones(400, np.float32), "inner")],
    )
    graph.node.append(helper.make_node("If", ["flag"], ["picked"], then_branch=branch, else_branch=branch))
    graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    graph.initializer.append(numpy_helper.from_array(np.arange(-8, 7).astype(ml_dtypes.int4), "q"))
    graph.initializer.append(numpy_helper.from_array(np.ones((40, 30), ml_dtypes.bfloat16), "bf"))
    graph.initializer.append(numpy_helper.from_array(np.ones((40, 30), ml_dtypes.float8_e4m3fn), "f8"))
    graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [2], [b"a", b"\xff"]))
    graph.initializer[0].doc_string = "the weight"
    values = numpy_helper.from_array(np.ones(2, np.float32), "sparse")
    indices = numpy_helper.from_array(np.array([1, 3]), "at")
    graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [9]))
    annotation = graph.quantization_annotation.add(tensor_name="y")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="b")
    graph.value_info.append(helper.make_tensor_value_info("y2", 1, None))
    graph.metadata_props.add(key="g", value="1")
    model.training_info.add().update_binding.add(key="w", value="y")
    return model


def ir3() -> onnx.ModelProto:
    model = plain()
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 32]))
    model.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [64]))
    return model


def raw(model: onnx.ModelProto) -> onnx.ModelProto:
    """With all initializers in one encoding."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        fresh = Tensor.of_proto(tensor).to_proto()
        tensor.CopyFrom(fresh)
    return copy


@pytest.mark.parametrize("make", [plain, rich, ir3])
@pytest.mark.parametrize("external", [False, True])
def test_an_unchanged_model_is_saved_equal(tmp_path: Path, make: Callable[[], onnx.ModelProto], external: bool) -> None:
    model = make()
    (tmp_path / "out").mkdir()
    onnx.save(model, tmp_path / "in.onnx")
    save(load(tmp_path / "in.onnx").replace(external=external), tmp_path / "out" / "m.onnx")
    assert raw(onnx.load(tmp_path / "out" / "m.onnx")) == raw(model)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["m.onnx", "m.onnx.data"][: 1 + external]
    again = load(tmp_path / "out" / "m.onnx")
    assert again.external == external
    assert list(again.weights) == [item.name for item in model.graph.initializer]
    assert again.nbytes == load(tmp_path / "in.onnx").nbytes


def test_raw_data_is_saved_byte_for_byte(tmp_path: Path) -> None:
    onnx.save(raw(plain()), tmp_path / "in.onnx")
    save(load(tmp_path / "in.onnx"), tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx") == onnx.load(tmp_path / "in.onnx")


def test_external_weights_lie_on_pages_and_lines(tmp_path: Path) -> None:
    model = load_of(plain(), tmp_path)
    extra = {"odd": Tensor.of("odd", np.ones(1027, np.int8)), "big": Tensor.of("big", np.ones((600, 600), np.float32))}
    save(model.replace(weights={**extra, **model.weights}, external=True), tmp_path / "o.onnx")
    tensors = {item.name: item for item in onnx.load(tmp_path / "o.onnx", load_external_data=False).graph.initializer}
    at = {name: int(item.external_data[1].value) for name, item in tensors.items() if item.external_data}
    assert set(at) == {"odd", "big", "w"}
    assert at["big"] % 4096 == 0 == at["w"] % 64
    assert tensors["b"].raw_data
    assert {item.external_data[0].value for item in tensors.values() if item.external_data} == {"o.onnx.data"}


def test_too_big_for_one_file_goes_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SINGLE_FILE_LIMIT", 5000)
    save(load_of(plain(), tmp_path), tmp_path / "o.onnx")
    assert (tmp_path / "o.onnx.data").stat().st_size == 64 * 32 * 4


def load_of(model: onnx.ModelProto, folder: Path, external: bool = False) -> Model:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, folder / "in.onnx", save_as_external_data=external, location="in.data", size_threshold=0)
    return load(folder / "in.onnx")


@pytest.mark.parametrize("external", [False, True])
def test_a_model_can_be_saved_over_itself(tmp_path: Path, external: bool) -> None:
    model = load_of(plain(), tmp_path)
    save(model.replace(external=external), tmp_path / "m.onnx")
    mine = load(tmp_path / "m.onnx")
    expected = mine.weights["w"].array()[::2].copy()
    held = mine.weights["w"].array()
    cut = mine.replace(weights={**mine.weights, "w": mine.weights["w"].take(0, np.arange(0, 64, 2))})
    save(cut, tmp_path / "m.onnx")
    np.testing.assert_array_equal(load(tmp_path / "m.onnx").weights["w"].array(), expected)
    np.testing.assert_array_equal(held[::2], expected)
    np.testing.assert_array_equal(cut.weights["w"].array(), expected)  # the old model still reads its old file
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx", "m.onnx", "m.onnx.data"][: 2 + external]


class Broken(Tensor):
    """A weight that cannot be read to its end."""

    error: BaseException = KeyboardInterrupt()

    def chunks(self) -> Iterator[bytes | memoryview]:
        yield b"\0" * 10
        raise self.error


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), MemoryError()])
def test_a_failed_save_leaves_everything_as_it_was(
    tmp_path: Path, external: bool, old: bool, error: BaseException
) -> None:
    if old:
        (tmp_path / "m.onnx").write_bytes(b"old model")
        (tmp_path / "m.onnx.data").write_bytes(b"old data")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    Broken.error = error
    array = np.ones((40, 40), np.float32)
    model = Model(plain(), {"w": Broken("w", 1, array.shape, array, array.shape)}, external=external)
    del model.graph.initializer[:]
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)):
        save(model, tmp_path / "m.onnx")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("links", [False, True])
@pytest.mark.parametrize("fails", ["m.onnx", "m.onnx.data"])
def test_a_failure_between_the_renames_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool, links: bool, fails: str
) -> None:
    model = load_of(plain(), tmp_path).replace(external=True)
    if old:
        (tmp_path / "m.onnx").write_bytes(b"old model")
        (tmp_path / "m.onnx.data").write_bytes(b"old data")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    replace = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if Path(target).name == fails and self.suffix == ".tmp":
            raise KeyboardInterrupt
        return replace(self, target)

    def no_links(*_: object) -> None:
        raise OSError(1, "not permitted")

    monkeypatch.setattr(Path, "replace", failing)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(KeyboardInterrupt):
        save(model, tmp_path / "m.onnx")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("fails", ["m.onnx", "m.onnx.data"])
def test_a_file_that_cannot_be_opened_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    model = load_of(plain(), tmp_path).replace(external=True)
    (tmp_path / "m.onnx").write_bytes(b"old model")
    (tmp_path / "m.onnx.data").write_bytes(b"old data")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    opens = Path.open

    def failing(self: Path, mode: str = "r") -> object:
        if self.name.startswith(f".{fails}.") and len(self.name) == len(fails) + 14:
            raise OSError(28, "No space left on device")
        return opens(self, mode)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", failing)
        with pytest.raises(UserError, match="No space left"):
            save(model, tmp_path / "m.onnx")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_existing_files_keep_their_mode(tmp_path: Path) -> None:
    model = load_of(plain(), tmp_path)
    (tmp_path / "m.onnx").touch()
    (tmp_path / "m.onnx").chmod(0o640)
    save(model, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_mode & 0o777 == 0o640


def test_what_a_model_is_read_from_is_not_written_over(tmp_path: Path) -> None:
    onnx.save(plain(), tmp_path / "m.onnx", save_as_external_data=True, location="o.onnx.data", size_threshold=0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = load(tmp_path / "m.onnx")
    for name in ("o.onnx", "o.onnx.data"):
        with pytest.raises(UserError, match=r"o\.onnx\.data': the model .*m\.onnx' is read from it"):
            save(model, tmp_path / name)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    save(model, tmp_path / "m.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "m.onnx.data", "o.onnx.data"}


def test_paths_that_cannot_be_written_are_refused_before_any_work(tmp_path: Path) -> None:
    model = load_of(plain(), tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        save(model, tmp_path / "no" / "m.onnx")
    with pytest.raises(UserError, match="not a regular file"):
        save(model, tmp_path)
    (tmp_path / "m.onnx.data").mkdir()
    with pytest.raises(UserError, match=r"data'.*not a regular file"):
        save(model.replace(external=True), tmp_path / "m.onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(UserError, match="not a regular file"):
        check_writable(tmp_path / "pipe.onnx")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_folders_without_permission_are_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="permission denied"):
        check_writable(tmp_path / "m.onnx")


def broken(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = plain()
    change(model)
    return model


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (broken(lambda m: m.graph.ClearField("node")), "no nodes"),
        (broken(lambda m: m.ClearField("graph")), "no nodes"),
        (broken(lambda m: setattr(m.opset_import[0], "version", 999)), "operator set version 999"),
        (broken(lambda m: setattr(m.opset_import[0], "version", 0)), "operator set version 0"),
        (broken(lambda m: m.ClearField("opset_import")), "opset_import"),
        (broken(lambda m: setattr(m, "ir_version", 999)), "IR version 999"),
        (broken(lambda m: setattr(m, "ir_version", 2)), "IR version 2"),
        (broken(lambda m: m.graph.initializer.append(m.graph.initializer[0])), "two initializers named 'w'"),
        (broken(lambda m: m.graph.initializer[0].dims.append(2)), "'w' has 8192 bytes .* needs 16384"),
        (broken(lambda m: m.graph.initializer[0].dims.extend([-1, -1])), "'w' has an impossible shape"),
        (broken(lambda m: m.graph.initializer[0].dims.extend([1 << 50])), "'w' has an impossible shape"),
        (broken(lambda m: setattr(m.graph.initializer[0], "data_type", 77)), "'w' has the element type 77"),
        (broken(lambda m: setattr(m.graph.initializer[0], "data_type", 8)), "'w'"),
    ],
)
def test_models_that_cannot_be_right_are_refused(tmp_path: Path, model: onnx.ModelProto, says: str) -> None:
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=says) as caught:
        load(tmp_path / "x.onnx")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, says in {"no": "does not exist", "": "folder", "empty": "empty", "pipe": "regular", "\0": "null"}.items():
        with pytest.raises(UserError, match=says):
            load(f"{tmp_path}/{name}")


def external_model(folder: Path, **entries: str) -> Path:
    """A model whose weight `w` (64x32 floats) says this about its external data."""
    model = plain()
    tensor = model.graph.initializer[0]
    (folder / "w.bin").write_bytes(b"\0" * 128 + tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "w.bin", "offset": "128", "length": "8192"} | entries).items():
        tensor.external_data.add(key=key, value=value)
    (folder / "x.onnx").write_bytes(model.SerializeToString())
    return folder / "x.onnx"


@pytest.mark.parametrize("entries", [{}, {"length": ""}, {"location": "./sub/../w.bin"}])
def test_external_data_is_found(tmp_path: Path, entries: dict[str, str]) -> None:
    (tmp_path / "sub").mkdir()
    model = load(external_model(tmp_path, **entries))
    expected = numpy_helper.to_array(plain().graph.initializer[0])
    assert model.external
    np.testing.assert_array_equal(model.weights["w"].array(), expected)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"location": "../w.bin"}, "outside the model's folder"),
        ({"location": "/etc/passwd"}, "outside the model's folder"),
        ({"location": "sub/../../secret"}, "outside the model's folder"),
        ({"location": "link"}, "outside the model's folder"),
        ({"location": "linked_folder/secret"}, "outside the model's folder"),
        ({"location": "gone.bin"}, "missing"),
        ({"location": ""}, "missing"),
        ({"location": "pipe"}, "missing"),
        ({"location": "a\0b"}, "cannot be read"),
        ({"location": "loop"}, "'w'"),
        ({"location": "n" * 5000}, "'w'"),
        ({"offset": "-1"}, "beyond the file's end"),
        ({"offset": "129"}, "beyond the file's end"),
        ({"offset": "9" * 30}, "beyond the file's end"),
        ({"offset": "9" * 5000}, "not a number"),
        ({"offset": "x"}, "not a number"),
        ({"length": "8188"}, "8188 bytes.*needs 8192"),
        ({"length": "-4"}, "beyond the file's end"),
    ],
)
def test_external_data_is_not_believed(tmp_path: Path, entries: dict[str, str], says: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"s" * 9000)
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked_folder").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    with pytest.raises(UserError, match=says) as caught:
        load(external_model(folder, **entries))
    assert "'w'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_external_data_of_attributes_and_subgraphs_is_brought_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    first, second = (rng.random((20, 20), dtype=np.float32) for _ in range(2))
    branch = helper.make_graph(
        [helper.make_node("Add", ["c", "inner"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", 1, None)],
        [numpy_helper.from_array(first, "inner")],
    )
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(second, "c")),
        helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch),
    ]
    outputs = [helper.make_tensor_value_info("y", 1, None)]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("flag", TensorProto.BOOL, [])], outputs)
    model = helper.make_model(graph)
    onnx.save(model, tmp_path / "in" / "m.onnx", save_as_external_data=True, convert_attribute=True, size_threshold=0)
    bare = onnx.load(tmp_path / "in" / "m.onnx", load_external_data=False)
    assert bare.graph.node[0].attribute[0].t.external_data
    save(load(tmp_path / "in" / "m.onnx"), tmp_path / "out.onnx")
    out = onnx.load(tmp_path / "out.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(out.graph.node[0].attribute[0].t), second)
    monkeypatch.setattr("onnxprune.files.external._EMBED_LIMIT", 20 * 20 * 4 * 3)  # the Constant and both branches
    load(tmp_path / "in" / "m.onnx")
    monkeypatch.setattr("onnxprune.files.external._EMBED_LIMIT", 20 * 20 * 4 * 3 - 1)
    with pytest.raises(UserError, match="too big"):
        load(tmp_path / "in" / "m.onnx")
    next(path for path in (tmp_path / "in").iterdir() if path.suffix != ".onnx").unlink()
    with pytest.raises(UserError, match="missing"):
        load(tmp_path / "in" / "m.onnx")


def test_opset_and_size_are_told(tmp_path: Path) -> None:
    model = load_of(plain(), tmp_path, external=True)
    assert (model.opset, model.nbytes, model.external) == (13, 64 * 33 * 4, True)
    assert not model.graph.initializer
