"""A user's mistake is one line on stderr that names the thing, exit code 2, nothing on stdout and no file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from .conftest import Said, network

Run = Callable[..., Said]
Edited = Callable[[Callable[[onnx.ModelProto], None]], Path]


def refused(said: Said, *words: str, code: int = 2) -> None:
    assert said.code == code, said
    assert said.out == ""
    lines = said.err.splitlines()
    assert len(lines) == 1, said.err
    assert lines[0].startswith("onnxprune: error: ")
    for word in words:
        assert word in lines[0]


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_missing_file(run: Run, tmp_path: Path) -> None:
    refused(run("prune", "nowhere.onnx"), "'nowhere.onnx' does not exist")
    refused(run("analyze", "nowhere.onnx"), "'nowhere.onnx' does not exist")
    refused(run("bench", "nowhere.onnx"), "'nowhere.onnx' does not exist")
    refused(run("apply", "nowhere.onnx", "p.json"), "'nowhere.onnx' does not exist")
    assert written(tmp_path) == set()


@pytest.mark.parametrize("command", [["analyze"], ["prune"], ["prune", "--no-verify"], ["bench"]])
def test_a_truncated_file(run: Run, model: Path, tmp_path: Path, command: list[str]) -> None:
    whole = model.read_bytes()
    for part in (0.1, 0.5, 0.9):
        model.write_bytes(whole[: int(len(whole) * part)])
        refused(run(*command, model), "net.onnx")
    assert written(tmp_path) == {"net.onnx"}


@pytest.mark.parametrize(
    "content", [b"", b"hello\n" * 100, b"\x89PNG\r\n\x1a\n" + bytes(100), b"PK\x03\x04" + bytes(64)]
)
def test_no_onnx_file(run: Run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    refused(run("prune", "x.onnx"), "'x.onnx'")
    refused(run("analyze", "x.onnx"), "'x.onnx'")
    assert written(tmp_path) == {"x.onnx"}


def test_external_data_missing(run: Run, tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    refused(run("prune", "net.onnx"), "w.bin")
    assert written(tmp_path) == {"net.onnx"}


def test_external_data_outside_the_folder(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    onnx.save(network(), folder / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    proto = onnx.load(folder / "net.onnx", load_external_data=False)
    (folder / "w.bin").rename(tmp_path / "w.bin")
    for weight in proto.graph.initializer:
        next(entry for entry in weight.external_data if entry.key == "location").value = "../w.bin"
    (folder / "net.onnx").write_bytes(proto.SerializeToString())
    refused(run("prune", folder / "net.onnx"), "../w.bin")
    assert written(tmp_path) == {"inside", "w.bin"}


def reads_nothing(proto: onnx.ModelProto) -> None:
    proto.graph.node[2].input[0] = "made_by_nobody"


def circle(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].input[0] = "sum"


def made_twice(proto: onnx.ModelProto) -> None:
    proto.graph.node[4].output[0] = "stem_out"


def wrong_rank(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.ones((16, 8), np.float32), "body.1.weight"))


def no_such_output(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].name = "probabilities"


@pytest.mark.parametrize("edit", [reads_nothing, circle, made_twice, wrong_rank, no_such_output])
def test_an_invalid_graph(run: Run, edited: Edited, tmp_path: Path, edit: Callable[[onnx.ModelProto], None]) -> None:
    path = edited(edit)
    refused(run("prune", path))
    assert written(tmp_path) == {"edited.onnx"}


@pytest.mark.parametrize("ratio", ["0", "1", "-0.1", "1.5", "nan", "inf"])
def test_a_ratio_outside_its_range(run: Run, model: Path, tmp_path: Path, ratio: str) -> None:
    refused(run("prune", model, f"--ratio={ratio}"), "ratio", "between 0 and 1")
    assert written(tmp_path) == {"net.onnx"}


def test_a_ratio_that_is_no_number(run: Run, model: Path) -> None:
    refused(run("prune", model, "--ratio", "half"), "--ratio", "'half'")


def test_bad_options_are_refused_before_the_model_is_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("ratio = 2\n")
    refused(run("prune", "nowhere.onnx", "--ratio", "2"), "ratio")
    refused(run("prune", "nowhere.onnx", "--criterion", "l3"), "l3")
    refused(run("prune", "nowhere.onnx", "--config", "p.toml"), "ratio")
    refused(run("prune", "nowhere.onnx", "-o", "no/such/folder.onnx"), "no/such/folder.onnx")
    refused(run("prune", "nowhere.onnx", "--plan", "no/plan.json"), "no/plan.json")
    refused(run("analyze", "nowhere.onnx", "--dot", "no/x.dot"), "no/x.dot")


def test_an_unknown_criterion_lists_near_ones(run: Run, model: Path) -> None:
    refused(run("prune", model, "--criterion", "fgpm"), "unknown criterion 'fgpm'", "did you mean 'fpgm'?")


def test_unknown_words_list_near_ones(run: Run, model: Path) -> None:
    refused(run("prune", model, "--ration", "0.5"), "'--ration'", "did you mean '--ratio'")
    refused(run("prune", model, "--rati=0.5"), "did you mean '--ratio'")
    refused(run("prun", model), "'prun'", "prune")
    assert "did you mean" not in run("prune", model, "--bogus").err
    refused(run("analyze", model, "extra"), "'extra'")
    refused(run(), "name a command: analyze, ops, prune, apply, verify", " or ")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--round-to", "0"], "--round-to"),
        (["--min-keep", "1"], "min_keep"),
        (["--threads", "-1"], "--threads"),
        (["--threads", "9999999"], "at most 1024"),
        (["-o", ""], "'' is not the name of a file"),
        (["--plan", ""], "'' is not the name of a file"),
        (["--plan", "a\0b"], "is not the name of a file"),
        (["-o", "x" * 300], "File name too long"),
        (["--plan", "x" * 300], "File name too long"),
        (["--config", "x" * 300], "File name too long"),
        (["--dim", "batch=99999999999999"], "at most 2147483647"),
        (["--dim", f"batch={'9' * 5000}"], "at most 2147483647"),
        (["--dim", "batch=2000000000"], "input 'image' of shape [2000000000, 3, 8, 8] would take"),
        (["--seed", "x"], "--seed"),
        (["--verify", "maybe"], "--verify"),
        (["--dim", "batch"], "NAME=SIZE"),
        (["--dim", "bach=2"], "'batch'"),
        (["--dim", "batch=0"], "at least 1"),
        (["--include", "stme"], "'stem"),
        (["--exclude-op", "Gem"], "'Gem'"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_other_bad_options(run: Run, model: Path, tmp_path: Path, options: list[str], word: str) -> None:
    refused(run("prune", model, *options), word)
    assert written(tmp_path) == {"net.onnx"}


def test_nothing_prunable_says_why(run: Run, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["w", "x"], ["y"], name="only")],
        "g",
        [helper.make_tensor_value_info("x", 1, [3, 2])],
        [helper.make_tensor_value_info("y", 1, [4, 2])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "x.onnx")
    refused(run("prune", "x.onnx"), "nothing in this model is prunable", "graph output 'y'", "graph-output")
    assert written(tmp_path) == {"x.onnx"}
    shown = run("analyze", "x.onnx")
    assert shown.code == 0
    assert "No channels of this model can be pruned." in shown.out


def test_outputs_that_cannot_be_written(run: Run, model: Path, tmp_path: Path) -> None:
    refused(run("prune", model, "-o", tmp_path), "not a regular file")
    refused(run("prune", model, "-o", "there/is/none.onnx"), "does not exist")
    refused(run("apply", model, "p.json", "-o", "there/is/none.onnx"), "does not exist")
    assert written(tmp_path) == {"net.onnx"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_without_permission(run: Run, model: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    refused(run("prune", model, "-o", locked / "x.onnx"), "permission denied")


def test_one_file_cannot_be_two(run: Run, model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    refused(run("prune", model, "-o", "x", "--plan", "x"), "'x' is given twice")
    refused(run("prune", model, "--plan", model), "given twice")
    refused(run("prune", model, "-o", "x", "--plan", "x.data"), "'x.data' is where the weights of 'x' would go")
    refused(run("analyze", model, "--dot", model), "given twice")
    refused(run("analyze", model, "--dot", "a", "--template", "./a"), "given twice")
    (tmp_path / "p.json").write_text("{}")
    refused(run("apply", model, "p.json", "-o", "p.json"), "given twice")
    assert model.read_bytes() == before
    assert written(tmp_path) == {"net.onnx", "p.json"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("criterion", ["l1", "fpgm", "random"])
def test_weights_that_are_no_numbers(run: Run, edited: Edited, tmp_path: Path, value: float, criterion: str) -> None:
    def poison(proto: onnx.ModelProto) -> None:
        array = numpy_helper.to_array(proto.graph.initializer[2]).copy()
        array[3, 1, 0, 2] = value
        proto.graph.initializer[2].CopyFrom(numpy_helper.from_array(array, "body.1.weight"))

    refused(run("prune", edited(poison), "--criterion", criterion), "'body.1.weight'", "NaN or Inf")
    assert written(tmp_path) == {"edited.onnx"}


@pytest.mark.parametrize("version", [0, 999])
def test_an_unknown_opset(run: Run, edited: Edited, version: int) -> None:
    def age(proto: onnx.ModelProto) -> None:
        proto.opset_import[0].version = version

    refused(run("prune", edited(age)), f"version {version}")


def test_the_data_of_the_input_is_not_written_over(run: Run, tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "net.onnx", save_as_external_data=True, location="o.onnx.data", size_threshold=0)
    before = (tmp_path / "o.onnx.data").read_bytes()
    for options in (["-o", "o.onnx"], ["-o", "o.onnx.data"], ["--plan", "o.onnx.data"]):
        refused(run("prune", "net.onnx", *options), "'o.onnx.data'", "the model 'net.onnx' is read from it")
    refused(run("analyze", "net.onnx", "--dot", "o.onnx.data"), "the model 'net.onnx' is read from it")
    assert (tmp_path / "o.onnx.data").read_bytes() == before
    assert written(tmp_path) == {"net.onnx", "o.onnx.data"}


def test_names_as_long_as_the_file_system_allows(run: Run, model: Path, tmp_path: Path) -> None:
    output, plan = "o" * 255, "é" * 127
    assert run("prune", model, "-o", output, "--plan", plan, "--no-verify").code == 0
    assert written(tmp_path) == {"net.onnx", output, plan}


def test_a_plan_without_cuts(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"version": 1, "cuts": []}')
    refused(run("apply", model, "p.json"), "'p.json': the plan removes nothing")
    refused(run("verify", model, model, "--plan", "p.json"), "'p.json': the plan removes nothing")
    assert written(tmp_path) == {"net.onnx", "p.json"}


def test_files_that_begin_with_a_byte_order_mark(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("ratio = 0.5\n", encoding="utf-8-sig")
    assert run("prune", model, "--config", "c.toml", "--plan", "p.json", "--no-verify").code == 0
    (tmp_path / "p.json").write_text((tmp_path / "p.json").read_text("utf-8"), encoding="utf-8-sig")
    assert run("apply", model, "p.json", "-o", "x.onnx", "--no-verify").code == 0


def test_an_operator_without_a_rule_is_named(run: Run, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((8, 3, 1, 1), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Foo", ["x", "w"], ["y"], name="foo", domain="my.dom")],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("y", 1, ["n", 8, 4, 4])],
        [weight],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.dom", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "x.onnx")
    refused(run("prune", "x.onnx"), "nothing in this model is prunable", "my.dom::Foo", "an operator without a rule")


def test_a_graph_without_outputs(run: Run, edited: Edited) -> None:
    def forget(proto: onnx.ModelProto) -> None:
        del proto.graph.output[:]

    refused(run("prune", edited(forget)), "its graph has no outputs")


def test_a_batch_that_contradicts_itself(run: Run, model: Path) -> None:
    for dim in ("batch=2", "image:0=2"):
        refused(run("bench", model, "--batch", "3", "--dim", dim), "--batch 3 contradicts --dim", "'batch' 2")
    assert run("bench", model, "--batch", "2", "--dim", "batch=2", "--runs", "1").code == 0


def test_an_axis_that_does_not_exist(run: Run, model: Path) -> None:
    refused(run("analyze", model, "--why", "logits:2", "stem"), "'logits' has 2 axes")
    refused(run("analyze", model, "--why", "stem", "stem.weight:4"), "'stem.weight' has 4 axes")
    assert run("analyze", model, "--why", "logits:1", "stem.weight:3").code == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 99, "cuts": []}', '{"version": 1}'])
def test_a_file_that_is_no_plan(run: Run, model: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    refused(run("apply", model, "p.json"), "p.json")
    refused(run("verify", model, model, "--plan", "p.json"), "p.json")
    assert written(tmp_path) == {"net.onnx", "p.json"}


def test_a_plan_for_another_model(run: Run, model: Path, edited: Edited) -> None:
    def rename(proto: onnx.ModelProto) -> None:
        proto.graph.initializer[2].name = proto.graph.node[2].input[1] = "body.one.weight"

    assert run("prune", model, "--no-verify", "--plan", "p.json").code == 0
    refused(run("apply", edited(rename), "p.json", "-o", "x.onnx"), "does not fit", "'body.1.weight:")
    refused(run("verify", edited(rename), model, "--plan", "p.json"), "does not fit", "'body.1.weight:")


def test_names_cannot_drive_the_terminal(run: Run, edited: Edited) -> None:
    def escape(proto: onnx.ModelProto) -> None:
        proto.graph.node[2].name = "evil\x1b[2J\nname"

    path = edited(escape)
    shown = run("analyze", path, "-v")
    assert "\x1b" not in shown.out + shown.err
    refused(run("analyze", path, "--why", "evil", "stem"), "evil")
