"""`prune --calib`, the criteria that ask data, and `--sensitivity`: from the command line to the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import onnxprune
from onnxprune.models_zoo import digits

from .conftest import Said

Run = Callable[..., Said]
SEEN = "onnxprune.models_zoo.digits:seen"


def test_compensation_brings_accuracy_back(run: Run, tmp_path: Path) -> None:
    plain = run("prune", "--ratio", "0.7", "--criterion", "l2", "-o", "a.onnx", "--no-bench", "--json").data
    options = ["--calib", SEEN, "--calib-samples", "256"]
    said = run("prune", "--ratio", "0.7", "--criterion", "l2", "-o", "b.onnx", "--no-bench", "--json", *options)
    solved = said.data
    assert "compensated on 256 samples" in said.err
    assert plain["after"]["accuracy"] < 0.6
    assert solved["after"]["accuracy"] > 0.9
    assert solved["after"]["params"] == plain["after"]["params"]
    a, b = onnxprune.load(tmp_path / "a.onnx"), onnxprune.load(tmp_path / "b.onnx")
    assert {name: w.shape for name, w in a.weights.items()} == {name: w.shape for name, w in b.weights.items()}
    assert digits.accuracy(b) == solved["after"]["accuracy"]


@pytest.mark.parametrize("criterion", ["obs", "activation", "apoz", "cosine"])
def test_criteria_that_ask_data(run: Run, criterion: str) -> None:
    data = run("prune", "--target", "macs=0.6", "--criterion", criterion, "--no-bench", "--json").data
    assert data["options"]["criterion"] == criterion
    assert data["options"]["per"] == "macs"
    assert 0.5 < data["after"]["macs"] / data["before"]["macs"] <= 0.6
    assert data["after"]["accuracy"] > 0.95


@pytest.mark.parametrize("criterion", ["group_fisher", "hessian"])
def test_criteria_that_ask_gradients(run: Run, criterion: str) -> None:
    argv = ["--target", "macs=0.6", "--criterion", criterion, "--calib-samples", "64", "--no-bench", "--json"]
    data = run("prune", *argv).data
    assert data["options"]["criterion"] == criterion
    assert data["options"]["per"] == "macs"
    assert 0.5 < data["after"]["macs"] / data["before"]["macs"] <= 0.6
    assert data["after"]["accuracy"] > 0.95


def test_a_ratio_stays_one_of_every_group(run: Run) -> None:
    options = ["--calib", SEEN, "--calib-samples", "64"]
    data = run("prune", "--ratio", "0.25", "--criterion", "obs", "--no-verify", "--json", *options).data
    assert data["options"]["scope"] == "local"
    assert data["units"] == {"removed": 84, "total": 336}


def test_without_data_such_a_criterion_is_refused(run: Run, model: Path) -> None:
    said = run("prune", model, "--criterion", "obs")
    assert said.code == 2
    assert "asks data what a channel is worth: name some, --calib" in said.err


def test_data_of_the_wrong_shape_is_refused_by_name(run: Run, model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 5, 8, 8), np.float32))
    said = run("prune", model, "--calib", "x.npy", "-o", "small.onnx")
    assert said.code == 2
    assert "'image'" in said.err
    assert not (tmp_path / "small.onnx").exists()


def test_a_sensitivity_decides_between_groups(run: Run) -> None:
    assert run("sensitivity", "-o", "s.json").code == 0
    plain = run("prune", "--ratio", "0.5", "--scope", "global", "--no-bench", "--json").data
    told = run("prune", "--ratio", "0.5", "--no-bench", "--sensitivity", "s.json", "--json").data
    assert told["options"]["scope"] == "global"
    assert told["units"] == plain["units"]
    assert told["after"]["accuracy"] > plain["after"]["accuracy"]


def test_the_deepest_cut_that_data_bears_after_compensation(run: Run) -> None:
    options = ["--max-drop", "0.02", "--normalize", "macs", "--round-to", "8", "--no-bench", "--json"]
    plain = run("prune", *options).data
    solved = run("prune", *options, "--calib", SEEN, "--calib-samples", "256").data
    assert plain["before"]["accuracy"] - plain["after"]["accuracy"] <= 0.02 + 1e-9
    assert solved["before"]["accuracy"] - solved["after"]["accuracy"] <= 0.02 + 1e-9
    assert solved["after"]["macs"] < plain["after"]["macs"]


@pytest.mark.usefixtures("likes_sixteen")
def test_a_budget_counts_more_than_what_the_machine_likes(run: Run) -> None:
    """A machine that likes sixteen leaves layers of 16 whole: two fifths of the work are out of reach then."""
    said = run("prune", "--target", "macs=0.4", "--no-bench", "--json")
    assert said.data["after"]["macs"] <= 0.4 * said.data["before"]["macs"]
    assert "cannot be reached with widths that this machine likes; they are held with any (--round-to 1)" in said.err
    assert said.data["options"]["round_to"] == 1
    liked = run("prune", "--target", "macs=0.6", "--no-bench", "--json")
    assert liked.data["options"]["round_to"] == "auto"
    assert "cannot be reached" not in liked.err
    never = run("prune", "--target", "macs=0.001", "--no-bench")
    assert never.code == 2
    assert "the lowest macs is" in never.err


def test_a_criterion_chosen_by_trying(run: Run) -> None:
    said = run("prune", "--criterion", "auto", "--target", "macs=0.5", "--no-bench", "--json")
    tried = dict(word.split(" ") for word in said.err.split("off by ")[1].split(" on ")[0].split(", "))
    assert list(tried) == ["l1", "l2", "fpgm", "bn_scale", "activation", "obs"]
    best = min(tried, key=lambda name: float(tried[name]))
    assert f"criterion auto took {best};" in said.err
    assert said.data["options"]["criterion"] == best
    assert said.data["after"]["accuracy"] > 0.98


def test_auto_says_what_it_could_not_try(run: Run, model: Path) -> None:
    said = run("prune", model, "--criterion", "auto", "--calib", "random:8", "--round-to", "1", "--no-bench")
    assert "; nothing came of bn_scale\n" in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--criterion auto tries criteria on data: name some"),
        (["--calib", "random:8", "--steps", "2"], "with --steps or --max-drop name a criterion"),
    ],
)
def test_what_auto_needs(run: Run, model: Path, words: list[str], message: str) -> None:
    said = run("prune", model, "--criterion", "auto", *words)
    assert said.code == 2
    assert message in said.err


def test_which_target_bound_is_said(run: Run) -> None:
    words = ["prune", "--target", "macs=0.9", "--target", "params=0.5", "--round-to", "8", "--no-bench"]
    assert "What bound was params." in run(*words).out
    assert run(*words, "--json").data["options"]["bound_by"] == "params"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--schedule", "cubic"], "--schedule says how --steps go"),
        (["--steps", "2", "--sensitivity", "s.json"], "--steps score what is left; give one of them"),
        (["--max-drop", "0.1", "--steps", "2", "--data", "random:4"], "--max-drop and --steps do not go together"),
        (["--run", "way"], "--run keeps what --steps or --max-drop have done"),
    ],
)
def test_options_that_contradict_each_other(run: Run, model: Path, words: list[str], message: str) -> None:
    said = run("prune", model, *words)
    assert said.code == 2
    assert message in said.err


def test_steps_of_the_file_are_checked_like_those_of_the_command_line(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("steps = 0\n")
    assert "steps must be a whole number" in run("prune", model, "--config", "p.toml").err


def test_how_is_made_up_for_what_was_cut(run: Run, tmp_path: Path) -> None:
    accuracy, said = {}, {}
    for how in ("sequential", "one-pass", "bn", "none"):
        options = ["--calib", SEEN, "--calib-samples", "256", "--compensate", how, "--no-bench", "--json"]
        found = run("prune", "--ratio", "0.7", "--criterion", "l2", "-o", f"{how}.onnx", *options)
        accuracy[how], said[how] = found.data["after"]["accuracy"], found.err
    assert accuracy["none"] + 0.05 < accuracy["bn"] < accuracy["one-pass"] < accuracy["sequential"]
    assert "compensated on 256 samples" in said["one-pass"]
    assert "re-estimated on 256 samples" in said["bn"]
    assert "256 samples" not in said["none"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compensate", "bn"], "--compensate bn asks for data: name some"),
        (["--compensate", "sequential"], "--compensate sequential asks for data: name some"),
        (["--calib-samples", "8"], "--calib-samples says how much of --calib is used"),
        (["--mean", "0.5"], "mean, std, size, layout and color are for images: name some"),
        (["--mean", "0.5", "--calib", "none"], "are for images, and 'synthetic:512' are none"),
    ],
)
def test_options_without_the_data_they_are_about_are_refused(
    run: Run, model: Path, words: list[str], message: str
) -> None:
    said = run("prune", model, *words)
    assert said.code == 2
    assert message in said.err


def photos(folder: Path) -> None:
    """Two that can be read, one that cannot."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 255, (9, 9, 3)).astype(np.uint8)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no image")


@pytest.mark.parametrize("words", [[], ["--criterion", "obs", "--compensate", "none"]])
def test_images_that_cannot_be_read_are_named(run: Run, model: Path, tmp_path: Path, words: list[str]) -> None:
    photos(tmp_path / "photos")
    said = run("prune", model, "--calib", "photos", "--round-to", "1", "--no-bench", "--json", *words)
    note = "1 of 3 images cannot be read and are left out: broken.png (no image of a known format)"
    assert note in said.data["notes"]
    assert f"note: {note}" in said.err


def test_options_of_images_are_for_the_data_that_are_images(run: Run, model: Path, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    np.savez(tmp_path / "x.npz", image=np.random.default_rng(0).random((8, 3, 8, 8)))
    words = ["prune", model, "--round-to", "1", "--no-bench", "--mean", "0.5"]
    assert run(*words, "--calib", "photos", "--data", "x.npz").code == 0
    assert run(*words, "--calib", "x.npz", "--data", "photos").code == 0
    refused = run(*words, "--calib", "x.npz", "--data", "x.npz")
    assert "are for images, and 'x.npz' are none" in refused.err


def test_calibration_of_the_file(run: Run, model: Path, tmp_path: Path) -> None:
    words = ["prune", model, "--config", "p.toml", "--round-to", "1", "--no-bench", "--json"]
    file = tmp_path / "p.toml"
    file.write_text('calib = {spec = "random:64", limit = 32}\ncompensate = "bn"\n')
    assert run(*words).data["options"]["compensated"]["by"] == "bn"
    assert "32 samples" in run(*words).err
    less = run(*words, "--calib-samples", "8", "--compensate", "one-pass")
    assert less.data["options"]["compensated"]["by"] == "one-pass"
    assert "compensated on 8 samples" in less.err
    file.write_text('compensate = "bn"\n')
    assert "--compensate bn asks for data" in run(*words).err
    file.write_text('calib = "random:8"\ncompensate = "one-pas"\n')
    assert "unknown way to compensate 'one-pas'; did you mean 'one-pass'" in run(*words).err


def test_where_the_error_enters_and_what_the_plan_records(run: Run, tmp_path: Path) -> None:
    options = ["--calib", SEEN, "--calib-samples", "128", "--plan", "p.json", "--no-bench", "--layers"]
    said = run("prune", "--ratio", "0.6", *options, "--json").data
    first, last = said["layers"][0], said["layers"][-1]
    assert (first["op"], first["error"], first["sqnr_db"]) == ("Conv", 0, None)
    assert 1e-4 < last["error"] < 0.5
    assert last["sqnr_db"] == pytest.approx(-10 * np.log10(last["error"]))
    meta = dict(onnxprune.load_plan(tmp_path / "p.json").meta)
    assert meta == said["options"]
    assert meta["measured"]["pruned"]["top1"] == said["after"]["accuracy"]
    assert meta["measured"]["original"]["top1"] == said["before"]["accuracy"]
    assert meta["compensated"]["by"] == "sequential"
    assert meta["compensated"]["after"]["deviation"] < meta["compensated"]["before"]["deviation"]
    assert meta["compensated"]["after"]["samples"] == 128
    table = run("prune", "--ratio", "0.6", *options).out
    assert f"{last['sqnr_db']:.1f} dB" in table
    assert "before compensation" in table


def test_what_was_kept_without_labels(run: Run, model: Path) -> None:
    """Agreement, and the distance of the outputs."""
    said = run("prune", model, "--data", "random:16", "--calib", "random:64", "--round-to", "1", "--no-bench").out
    assert "of 16 samples" in said
    assert "cosine of outputs" in said


def test_layers_without_data(run: Run, model: Path) -> None:
    said = run("prune", model, "--layers")
    assert said.code == 2
    assert "--layers compares both models on data: name some" in said.err
