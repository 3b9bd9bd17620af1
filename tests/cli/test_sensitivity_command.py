"""`sensitivity`: one table, one document, one file that the next run goes on from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from onnxprune.data.sources import Request

from .conftest import Said

Run = Callable[..., Said]


@pytest.fixture
def arrays(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((20, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", image=images, labels=rng.integers(0, 10, 20))
    return "x.npz"


def test_the_table(run: Run, model: Path, arrays: str) -> None:
    said = run("sensitivity", model, "--data", arrays, "--ratios", "0.25,0.5")
    assert (said.code, said.err) == (0, "wrote sensitivity.json\n")
    lines = said.out.splitlines()
    assert lines[0].split() == ["Group", "Units", "25%", "50%"]
    assert sorted(line.split()[0] for line in lines[2:4]) == ["body.1", "stem"]
    assert {line.split()[0]: line.split()[1] for line in lines[2:4]} == {"body.1": "16", "stem": "8"}
    assert "Accuracy on 20 samples when that share of a group is cut" in said.out
    assert max(map(len, lines)) <= 80


def test_the_document_is_what_the_file_says(run: Run, model: Path, arrays: str, tmp_path: Path) -> None:
    data = run("sensitivity", model, "--data", arrays, "-o", "s.json", "--criterion", "l2", "--json").data
    file = json.loads((tmp_path / "s.json").read_text())
    assert (data["command"], data["model"], data["output"], data["plot"]) == ("sensitivity", str(model), "s.json", None)
    assert (data["criterion"], data["data"], data["measure"]) == ("l2", "x.npz", "accuracy")
    assert data["baseline"] == file["baseline"]
    assert data["baseline"]["samples"] == 20
    assert {group["name"]: group["points"] for group in data["groups"]} == {
        group["name"]: group["points"] for group in file["groups"]
    }
    assert [point["removed"] for group in file["groups"] for point in group["points"]] == [2, 4, 6, 4, 8, 12]
    assert {"ratio", "samples", "top1", "top5", "agreement", "deviation", "cosine", "sqnr_db"} <= set(
        file["groups"][0]["points"][0]
    )


def test_it_goes_on_where_it_ended(run: Run, model: Path, arrays: str, tmp_path: Path) -> None:
    words = ["sensitivity", model, "--data", arrays, "--json"]
    first = run(*words, "--ratios", "0.5", "--include", "stem").data
    assert [(group["name"], len(group["points"])) for group in first["groups"]] == [("stem", 1)]
    path = tmp_path / "sensitivity.json"
    file = json.loads(path.read_text())
    file["groups"][0]["points"][0]["deviation"] = 0.123
    path.write_text(json.dumps(file))
    data = run(*words, "--ratios", "0.5").data
    points = {group["name"]: group["points"][0]["deviation"] for group in data["groups"]}
    assert points["stem"] == 0.123, "kept from the file"
    assert points["body.1"] != 0.123


def test_agreement_where_there_are_no_labels(run: Run, model: Path) -> None:
    said = run("sensitivity", model, "--data", "random:8", "--ratios", "0.5")
    assert "note: the data is random" in said.err
    assert "Agreement with the original on 8 samples" in said.out


def test_images_are_prepared_as_told(run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, name in enumerate("ab"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (i, 2 * i, 100)).save(tmp_path / "photos" / name / "1.png")
    (tmp_path / "p.toml").write_text('mean = 0.5\nstd = 0.5\ncolor = "bgr"\n')
    asked: list[Request] = []
    from onnxprune.cli import data_arguments

    plain = data_arguments.reopened

    def watched(request: Request, *rest: Any) -> Any:
        asked.append(request)
        return plain(request, *rest)

    monkeypatch.setattr(data_arguments, "reopened", watched)
    words = ["--preprocess", "p.toml", "--std", "0.1,0.2,0.3", "--size", "8", "--layout", "nchw", "--limit", "2"]
    said = run("sensitivity", model, "--data", "photos", "--ratios", "0.5", "--batch", "7", "--dim", "batch=2", *words)
    assert said.code == 0
    assert "the data has 2 classes and the model 10" in said.err
    (request,) = asked
    how = request.preprocess
    assert how is not None
    assert (how.mean, how.std, how.size, how.layout, how.color) == ((0.5,), (0.1, 0.2, 0.3), (8, 8), "nchw", "bgr")
    assert (request.limit, request.batch, request.dims) == (2, 7, (("batch", 2),))
    assert "size 8x4 does not fit" in run("sensitivity", model, "--data", "photos", "--size", "8x4").err


def test_the_network_shipped_has_its_data(run: Run) -> None:
    data = run("sensitivity", "--ratios", "0.75", "--include", "stem.0", "--json").data
    (group,) = data["groups"]
    assert (data["baseline"]["top1"], group["points"][0]["top1"], group["points"][0]["removed"]) == (0.992, 0.416, 12)


def test_the_curves_are_drawn(run: Run, model: Path, arrays: str, tmp_path: Path) -> None:
    said = run("sensitivity", model, "--data", arrays, "--ratios", "0.5", "--plot", "c.svg")
    assert said.err == "wrote sensitivity.json\nwrote c.svg\n"
    assert b"<svg" in (tmp_path / "c.svg").read_bytes()


def test_inexact_cuts_on_request(run: Run, tmp_path: Path) -> None:
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 6] x, float[6, 8] w, float[8] s, float[8] t, float[8, 3] v) => (float[n, 3] y) {
            a = MatMul (x, w)
            b = LayerNormalization (a, s, t)
            y = MatMul (b, v)
        }
    """)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (6, 8)), ("s", (8,)), ("t", (8,)), ("v", (8, 3))):
        proto.graph.initializer.append(numpy_helper.from_array(rng.uniform(0.5, 1.5, shape).astype(np.float32), name))
    del proto.graph.input[1:]
    onnx.save(proto, tmp_path / "norm.onnx")
    words = ["sensitivity", "norm.onnx", "--data", "random:4", "--ratios", "0.5", "--json"]
    assert run(*words).code == 2
    (group,) = run(*words, "--allow-inexact").data["groups"]
    assert group["points"][0]["removed"] == 4


def test_progress_of_what_takes_long(run: Run, model: Path, arrays: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done, and which part of it: the moving line makes the time left of that."""
    from onnxprune.cli import progress

    parts: list[tuple[str, float]] = []
    monkeypatch.setattr(progress.Activity, "part", lambda self, part: parts.append((self._step[0], part)))
    run("sensitivity", model, "--data", arrays, "--ratios", "0.25,0.5")
    assert parts == [("measuring what each group costs", share) for share in (0.25, 0.5, 0.75, 1.0)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name the data: --data"),
        (["--data", "nowhere"], "there is no 'nowhere'"),
        (["--data", "x.npz", "--mean", "0.5"], "are for images"),
        (["--data", "x.npz", "--mean", "a,b"], "--mean"),
        (["--data", "x.npz", "--mean", "1,2"], "mean must be one number, or one for each channel"),
        (["--data", "x.npz", "--size", "8x"], "--size: '8x' is no size"),
        (["--data", "x.npz", "--size", "0"], "size must be two whole numbers"),
        (["--data", "x.npz", "--ratios", "half"], "--ratios"),
        (["--data", "x.npz", "--ratios", "0.5,1"], "between 0 and 1"),
        (["--data", "x.npz", "--criterion", "l3"], "did you mean 'l2' or 'l1'"),
        (["--data", "x.npz", "--backend", "spark"], "--backend"),
        (["--data", "x.npz", "--jobs", "0"], "--jobs"),
        (["--data", "x.npz", "--limit", "0"], "--limit"),
        (["--data", "x.npz", "--plot", "c.gif"], "must end in .svg, .png, .pdf"),
        (["--data", "x.npz", "-o", "net.onnx"], "given twice"),
        (["--data", "x.npz", "-o", "gone/s.json"], "the folder 'gone' does not exist"),
        (["--data", "x.npz", "--preprocess", "gone.toml"], "cannot read 'gone.toml'"),
        (["--data", "x.npz", "--exclude", "stm"], "no prunable group matches 'stm'; did you mean 'stem'"),
        (["--data", "x.npz", "--dim", "bach=3"], "did you mean 'batch'"),
    ],
)
def test_mistakes(run: Run, model: Path, arrays: str, tmp_path: Path, words: list[str], said: str) -> None:
    before = sorted(tmp_path.iterdir())
    result = run("sensitivity", "net.onnx", *words)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert result.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_how_channels_are_ranked(run: Run, model: Path, arrays: str) -> None:
    import json

    words = ["--criterion", "random", "--seed", "3", "--reduce", "max", "--normalize", "none"]
    assert run("sensitivity", model, "--data", arrays, "--ratios", "0.5", *words).code == 0
    found = json.loads(Path("sensitivity.json").read_text())
    how = ("criterion", "seed", "reduce", "normalize")
    assert [found[name] for name in how] == ["random", 3, "max", "none"]
    assert "with seed 3, not 4" in run("sensitivity", model, "--data", arrays, *words[:3], "4", *words[4:]).err
