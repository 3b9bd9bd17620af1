"""`prune`, `apply` and `verify`: what is written equals what was promised, and options mean what they say."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.checking.verify import Verification, relative
from onnxprune.cli.outcome import Outcome
from onnxprune.counting.cost import cost
from onnxprune.cutting.plan import Plan
from onnxprune.execution import runtime
from onnxprune.timing.bench import BenchReport, BenchRow
from onnxprune.timing.verdict import verdict

from .conftest import Said, network

Run = Callable[..., Said]
NOISE = 1e-5


def removed(path: Path) -> dict[str, int]:
    return {group.name: group.removed for group in onnxprune.load_plan(path).groups}


def widths(path: Path) -> tuple[int, int]:
    weights = {item.name: tuple(item.dims) for item in onnx.load(path).graph.initializer}
    return weights["stem.weight"][0], weights["body.1.weight"][0]


def test_what_is_written_is_the_masked_original(run: Run, model: Path, tmp_path: Path) -> None:
    said = run("prune", model, "-o", "small.onnx", "--ratio", "0.5", "--plan", "p.json", "--no-bench")
    assert said.code == 0
    assert said.err == "wrote small.onnx\nwrote p.json\n"
    assert widths(tmp_path / "small.onnx") == (4, 8)
    original, plan = onnxprune.load(model), onnxprune.load_plan(tmp_path / "p.json")
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    weights = dict(original.weights)
    for (name, axis), index in plan.removed().items():
        if name in weights:
            weights[name] = weights[name].zero(axis, index)
    masked = runtime.run(runtime.session(original.replace(weights=weights)), {"image": x})["logits"]
    pruned = runtime.run(runtime.session(onnxprune.load(tmp_path / "small.onnx")), {"image": x})["logits"]
    full = runtime.run(runtime.session(original), {"image": x})["logits"]
    assert relative(masked, pruned) < NOISE
    assert relative(full, masked) > 0.01


def test_the_document(run: Run, model: Path, tmp_path: Path) -> None:
    data = run("prune", model, "--ratio", "0.25", "--criterion", "l2", "--json", "--no-bench").data
    assert data["model"] == str(model)
    assert data["output"] == "net-pruned.onnx"
    assert data["plan"] is None
    assert (data["options"]["ratio"], data["options"]["criterion"]) == (0.25, "l2")
    before, after = cost(onnxprune.load(model)), cost(onnxprune.load(tmp_path / "net-pruned.onnx"))
    for side, total in (("before", before), ("after", after)):
        assert (data[side]["params"], data[side]["macs"], data[side]["bytes"]) == (
            total.params,
            total.macs,
            total.bytes,
        )
    assert before.macs > after.macs
    assert data["groups"] == {"cut": 2, "total": 2}
    assert data["units"] == {"removed": 6, "total": 24}
    assert data["verification"]["ok"] is True
    assert 0 <= data["verification"]["error"] < NOISE
    assert data["verification"]["moved"] > 0.01
    assert data["verification"]["by_tensor"].keys() == {"logits"}
    assert data["bench"] is None
    assert data["speedup"] is None
    assert data["warnings"] == ["speed was not measured: the result may be slower than the original"]
    assert data["notes"] == []
    assert list(data["seconds"]) == ["Normalize", "Analyze", "Score", "Select", "Apply", "Verify", "Save"]


def test_the_table(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.cli.production.BENCH_SECONDS", 0.05)
    said = run("prune", model, "--ratio", "0.5")
    rows = {line[:18].strip(): line.split() for line in said.out.splitlines() if line}
    assert max(map(len, said.out.splitlines())) <= 80
    for name in ("params", "MACs", "weights", "latency", "speed-up", "output deviation", "verification error"):
        assert name in rows
    assert rows["params"][-1] == "-71.8%"
    assert "limit 1e-05" in said.out
    assert "Cut 2 of 2 groups: 12 of 24 units (50.0%)." in said.out


def test_verbose_shows_groups_and_times(run: Run, model: Path) -> None:
    said = run("prune", model, "-v", "--no-bench")
    assert ["body.1", "16", "5", "11"] in [line.split() for line in said.out.splitlines()]
    for name in ("Normalize", "Analyze", "Score", "Select", "Apply", "Verify", "Save", "in all"):
        assert f"\n{name} " in f"\n{said.err}"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"stem": 2, "body.1": 5}),
        (["--ratio", "0.5"], {"stem": 4, "body.1": 8}),
        (["--ratio", "0.3", "--round-to", "4"], {"stem": 0, "body.1": 4}),
        (["--ratio", "0.9", "--min-keep", "0.5"], {"stem": 4, "body.1": 8}),
        (["--include", "body.1"], {"body.1": 5}),
        (["--include", "body.1", "--include", "stem"], {"stem": 2, "body.1": 5}),
        (["--exclude", "body1"], {"stem": 2}),
        (["--include-op", "Conv", "--exclude", "stem.weight"], {"body.1": 5}),
        (["--verify", "off"], {"stem": 2, "body.1": 5}),
    ],
)
def test_options_decide_what_goes(
    run: Run, model: Path, tmp_path: Path, options: list[str], expected: dict[str, int]
) -> None:
    assert run("prune", model, "--plan", "p.json", "--verify", "structural", *options).code == 0
    assert removed(tmp_path / "p.json") == expected


def test_the_other_options_reach_the_plan(run: Run, model: Path) -> None:
    words = ["--scope", "global", "--seed", "7", "--criterion", "random", "--reduce", "max", "--normalize", "gaussian"]
    options = run("prune", model, *words, "--no-verify", "--json").data["options"]
    expected = {"scope": "global", "seed": 7, "criterion": "random", "reduce": "max", "normalize": "gaussian"}
    assert expected.items() <= options.items()


def test_the_command_line_wins_over_the_file(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('ratio = 0.5\ncriterion = "l2"\nexclude = ["body.1"]\n[groups]\n"stem" = 0.75\n')

    def options(*words: str) -> dict[str, Any]:
        found: dict[str, Any] = run("prune", model, "--config", "p.toml", "--no-verify", "--json", *words).data[
            "options"
        ]
        return found

    assert {
        "ratio": 0.5,
        "criterion": "l2",
        "exclude": ["body.1"],
        "ratios": {"stem": 0.75},
    }.items() <= options().items()
    both = options("--ratio", "0.25", "--exclude", "body1")
    assert {"ratio": 0.25, "criterion": "l2", "exclude": ["body1"], "ratios": {"stem": 0.75}}.items() <= both.items()


@pytest.mark.parametrize("mode", ["structural", "off"])
def test_without_numeric_verification_nothing_runs(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a session was opened")

    monkeypatch.setattr(importlib.import_module("onnxprune.execution.runtime"), "session", never)
    monkeypatch.setattr(importlib.import_module("onnxprune.checking.verify"), "session", never)
    monkeypatch.setattr("onnxprune.passes.bench.bench", never)
    data = run("prune", model, "--verify", mode, "--json").data
    assert (data["verification"]["mode"], data["bench"]) == (mode, None)


def test_the_input_may_be_replaced(run: Run, model: Path) -> None:
    assert run("prune", model, "-o", model, "--ratio", "0.5", "--no-bench").code == 0
    assert widths(model) == (4, 8)
    assert run("prune", model, "-o", model, "--ratio", "0.5", "--no-bench").code == 0
    assert widths(model) == (2, 4)


def test_external_data_stays_external(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    onnx.save(network(), folder / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert run("prune", folder / "net.onnx", "-o", "small.onnx", "--no-bench").code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"in", "small.onnx", "small.onnx.data"}
    onnx.checker.check_model(str(tmp_path / "small.onnx"), full_check=True)


def test_a_plan_fits_the_finetuned_sibling(run: Run, model: Path, tmp_path: Path) -> None:
    assert run("prune", model, "--ratio", "0.5", "--plan", "p.json", "--no-verify").code == 0
    onnx.save(network(seed=5), tmp_path / "tuned.onnx")
    said = run("apply", "tuned.onnx", "p.json", "--no-bench", "--json")
    assert said.code == 0
    assert said.data["output"] == "tuned-pruned.onnx"
    assert said.data["groups"] == {"cut": 2, "total": 2}
    assert widths(tmp_path / "tuned-pruned.onnx") == (4, 8)
    checked = run("verify", "tuned.onnx", "tuned-pruned.onnx", "--plan", "p.json", "--json")
    assert (checked.code, checked.data["ok"]) == (0, True)
    assert checked.data["error"] < NOISE < checked.data["moved"]
    assert run("verify", model, "tuned-pruned.onnx", "--plan", "p.json", "-q").code == 3


def test_applying_again_gives_the_same_file(run: Run, model: Path, tmp_path: Path) -> None:
    assert run("prune", model, "-o", "a.onnx", "--plan", "p.json", "--no-bench").code == 0
    assert run("apply", model, "p.json", "-o", "b.onnx", "--no-bench").code == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_plan_without_its_summary(run: Run, model: Path, tmp_path: Path) -> None:
    assert run("prune", model, "--plan", "p.json", "--no-verify").code == 0
    plan = json.loads((tmp_path / "p.json").read_text())
    (tmp_path / "p.json").write_text(json.dumps({"version": plan["version"], "cuts": plan["cuts"]}))
    said = run("apply", model, "p.json", "--no-bench")
    assert said.code == 0
    assert "Cut 2 of 2 groups." in said.out


def test_verify_says_what_it_compared(run: Run, model: Path) -> None:
    assert run("prune", model, "-o", "s.onnx", "--plan", "p.json", "--no-verify").code == 0
    said = run("verify", model, "s.onnx", "--plan", "p.json", "-v", "--dim", "batch=3")
    assert said.code == 0
    assert "Verified: 1 tensor equal to the masked original" in said.out
    assert "batch=3" in said.out
    assert [line.split()[0] for line in said.out.splitlines() if line.startswith("logits")] == ["logits"]
    assert "in structure only" in run("verify", model, "s.onnx", "--plan", "p.json", "--mode", "structural").out


def test_groups_that_the_criterion_cannot_read_are_mentioned(
    run: Run, edited: Callable[[Callable[[onnx.ModelProto], None]], Path]
) -> None:
    def normalise(proto: onnx.ModelProto) -> None:
        graph = proto.graph
        for name, start in (("scale", 1.0), ("shift", 0.0), ("mean", 0.0), ("var", 1.0)):
            values = np.linspace(start, start + 0.5, 16, dtype=np.float32)
            graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        names = ["body1_out", "scale", "shift", "mean", "var"]
        norm = onnx.helper.make_node("BatchNormalization", names, ["normed"], name="norm")
        graph.node[3].input[0] = "normed"
        graph.node.insert(3, norm)

    said = run("prune", edited(normalise), "--criterion", "bn_scale", "--no-bench", "--json")
    assert said.code == 0
    assert said.data["skipped"].keys() == {"stem"}
    assert "left whole: criterion 'bn_scale'" in said.err
    assert said.data["units"] == {"removed": 5, "total": 16}


def test_no_batch_normalization_says_how_to_export_it(run: Run, model: Path) -> None:
    said = run("prune", model, "--criterion", "bn_scale")
    assert said.code == 2
    assert "training=torch.onnx.TrainingMode.PRESERVE" in said.err


def test_the_shipped_network_reports_its_accuracy(run: Run, tmp_path: Path) -> None:
    said = run("prune", "--ratio", "0.3", "--criterion", "fpgm", "--no-bench", "--json")
    assert said.code == 0
    assert "digits" in said.err
    before, after = said.data["before"]["accuracy"], said.data["after"]["accuracy"]
    assert 0.95 < before <= 1
    assert 0.5 < after <= 1
    assert after != before
    assert (tmp_path / "digits-pruned.onnx").exists()


def test_accuracy_is_in_the_table(run: Run) -> None:
    assert "accuracy" in run("prune", "--no-verify", "-q").out


def row(name: str, ms: float, low: float, high: float) -> BenchRow:
    says = verdict(low, high)
    return BenchRow(name, ms, ms, ms, 1 / ms, low, high, 1, 1, None, {}, ms, 1, 1e3 / ms, low, high, says)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.7, 0.9, "SLOWER than the original: it is 0.70 to 0.90 times as fast"),
        (0.8, 1.1, "too noisy to tell whether the pruned model is faster: it is 0.80 to 1.10"),
        (0.99, 1.01, "about as fast as the original (0.99 to 1.01 times)"),
        (1.2, 1.3, ""),
    ],
)
def test_a_slower_model_is_said_in_plain_words(model: Path, low: float, high: float, words: str) -> None:
    total = cost(onnxprune.load(model))
    report = BenchReport((row("original", 1, 1, 1), row("pruned", 1.25, low, high)), 9, 1, "CPU", {}, "1")
    for block in (1, "auto"):
        plan = Plan((), meta={"round_to": block})
        found = Outcome(model, model, None, plan, total, total, Verification("numeric", True), report, None)
        assert len(found.warnings) == bool(words)
        assert all(words in warning for warning in found.warnings)
        assert all(("--round-to auto" in warning) == (block == 1) for warning in found.warnings)


@pytest.mark.parametrize(
    ("target", "low", "high", "missed"),
    [
        ("latency=0.5", 1.9, 2.1, False),
        ("latency=0.5", 1.6, 1.9, True),
        ("latency=5ms", 1.9, 2.1, False),
        ("latency=4ms", 1.9, 2.1, True),
        ("macs=0.5", 1.6, 1.9, False),
    ],
)
def test_a_latency_that_was_missed_is_said(model: Path, target: str, low: float, high: float, missed: bool) -> None:
    total = cost(onnxprune.load(model))
    report = BenchReport((row("original", 10, 1, 1), row("pruned", 5, low, high)), 9, 1, "CPU", {}, "1")
    plan = Plan((), meta={"round_to": "auto", "targets": [target]})
    found = Outcome(model, model, None, plan, total, total, Verification("numeric", True), report, None)
    assert [f"target {target!r} was missed in the last measurement" in warning for warning in found.warnings] == (
        [True] if missed else []
    )


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are timed as shortly as can be: what goes then is chance, but what is said of it is not."""
    monkeypatch.setattr("onnxprune.targets.kernels.SECONDS", 0.0)


def meta(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = onnxprune.load_plan(tmp_path / "p.json").meta
    return found


@pytest.mark.parametrize("kind", ["macs", "params", "activation", "latency"])
def test_importance_per_cost(run: Run, model: Path, tmp_path: Path, kind: str, brief: None) -> None:
    words = ["--normalize", kind, "--ratio", "0.5", "--no-verify"]
    assert run("prune", model, "--plan", "p.json", *words).code == 0
    noted = meta(tmp_path)
    assert (noted["per"], noted["scope"], noted["targets"]) == (kind, "global", ["ratio=0.5"])
    assert noted["normalize"] == "mean"
    assert sum(removed(tmp_path / "p.json").values()) == 12


def test_a_cost_holds_targets(run: Run, model: Path, tmp_path: Path, brief: None) -> None:
    words = ["--normalize", "latency", "--target", "macs=0.6", "--target", "params=0.8", "--no-verify", "--json"]
    data = run("prune", model, "--plan", "p.json", *words).data
    assert data["after"]["macs"] <= 0.6 * data["before"]["macs"]
    assert data["after"]["params"] <= 0.8 * data["before"]["params"]
    assert meta(tmp_path)["bound_by"] in ("macs", "params")


def test_a_cost_from_the_file_and_none_from_the_command_line(
    run: Run, model: Path, tmp_path: Path, brief: None
) -> None:
    (tmp_path / "p.toml").write_text('normalize = "latency"\nratio = 0.5\n[groups]\n"stem" = 0.25\n')
    words = ["--plan", "p.json", "--no-verify"]
    assert run("prune", model, "--config", "p.toml", *words).code == 0
    noted = meta(tmp_path)
    assert (noted["per"], noted["targets"], noted["ratios"]) == ("latency", ["ratio=0.5"], {"stem": 0.25})
    assert removed(tmp_path / "p.json") == {"stem": 2, "body.1": 8}
    assert run("prune", model, "--config", "p.toml", "--normalize", "max", *words).code == 0
    noted = meta(tmp_path)
    assert (noted.get("per", "none"), noted["normalize"], noted["scope"]) == ("none", "max", "local")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--scope", "global"], 12),
        (["--min-keep", "0"], 12),
        (["--min-keep", "0", "--ratio", "0.99"], 22),
        (["--min-keep", "0.5", "--ratio", "0.9"], 12),
        (["--round-to", "4"], 12),
        (["--exclude", "stem", "--ratio", "0.25"], 4),
        (["--threads", "2", "--round-to", "1"], 12),
        (["--dim", "batch=3"], 12),
    ],
)
def test_a_cost_with_other_options(
    run: Run, model: Path, tmp_path: Path, brief: None, words: list[str], expected: int
) -> None:
    words = ["--ratio", "0.5", "--normalize", "latency", "--no-verify", *words]
    assert run("prune", model, "--plan", "p.json", *words).code == 0
    assert sum(removed(tmp_path / "p.json").values()) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--normalize", "latincy"], "'latincy'"),
        (["--normalize", "latency", "--scope", "local"], "--scope local and --normalize latency do not go together"),
        (["--normalize", "latency", "--ratio", "0.001"], "nothing would be cut"),
        (["--normalize", "macs", "--round-to", "32"], "round_to 32 leave every group whole"),
        (["--round-to", "automatic"], "--round-to: 'automatic'"),
        (["--round-to", "0"], "--round-to: must be 1 or more"),
        (["--normalize", "latency", "--target", "macs=0.001"], "the lowest macs is 0."),
    ],
)
def test_what_a_cost_cannot_do(run: Run, model: Path, brief: None, words: list[str], said: str) -> None:
    result = run("prune", model, *words)
    assert (result.code, result.out) == (2, "")
    assert said in result.err.splitlines()[-1]
    assert not model.with_name("net-pruned.onnx").exists()


def test_the_shipped_network_is_timed_and_kept_at_the_size_it_is_timed_at(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    module = importlib.import_module("onnxprune.passes.select")
    real = module.latency_of
    monkeypatch.setattr(
        module, "latency_of", lambda *args, **options: seen.append(options["dims"]) or real(*args, **options)
    )
    monkeypatch.setattr("onnxprune.targets.kernels.SECONDS", 0.0)
    assert run("prune", "--normalize", "latency", "--no-verify").code == 0
    assert run("prune", "--normalize", "latency", "--no-verify", "--dim", "batch=2").code == 0
    assert seen == [{"batch": 64}, {"batch": 2}]


def test_widths_that_this_machine_likes(run: Run, model: Path, tmp_path: Path, likes_sixteen: None) -> None:
    said = run("prune", model, "--ratio", "0.5")
    assert said.code == 2
    assert "round_to auto (16 for convolutions, 16 for matrix products) leave every group whole" in said.err
    assert run("prune", model, "--ratio", "0.5", "--round-to", "1", "--plan", "p.json", "--no-verify").code == 0
    assert removed(tmp_path / "p.json") == {"stem": 4, "body.1": 8}
    assert meta(tmp_path)["round_to"] == 1


def test_automatic_is_the_default_and_noted(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('round_to = "auto"\n')
    for words in ([], ["--round-to", "auto"], ["--config", "p.toml"], ["--target", "macs=0.7"]):
        assert run("prune", model, "--plan", "p.json", "--no-verify", *words).code == 0
        assert (meta(tmp_path)["round_to"], meta(tmp_path)["blocks"]) == ("auto", {"conv": 1, "matmul": 1})


def test_widths_are_measured_for_as_many_threads_and_kept(
    run: Run,
    model: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def steps(layer: str, kind: str, threads: int, provider: str) -> dict[int, float]:
        asked.append(threads)
        return {width: -(-width // 4) * 4.0 if width < 12 else -(-width // 8) * 8.0 for width in range(4, 97)}

    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path_factory.mktemp("fresh")))
    monkeypatch.setattr("onnxprune.selection.alignment.curve", steps)
    for _ in range(2):
        words = ["--threads", "2", "--ratio", "0.5", "--no-verify", "--plan", "p.json"]
        said = run("prune", model, *words)
        assert (said.code, "measure" in said.err) == (0, False)
    assert asked == [2] * 4
    assert meta(tmp_path)["blocks"] == {"conv": 8, "matmul": 8}
    # eight of sixteen, and of eight the half: a smaller block pays there
    assert removed(tmp_path / "p.json") == {"stem": 4, "body.1": 8}


def test_a_damaged_measurement_is_mentioned(
    run: Run, model: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("damaged")
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(cache))
    monkeypatch.setattr(
        "onnxprune.selection.alignment.curve", lambda *_: {width: float(width) for width in range(4, 97)}
    )
    assert run("prune", model, "--no-verify").code == 0
    (path,) = cache.iterdir()
    path.write_text("[]")
    said = run("prune", model, "--no-verify")
    assert said.code == 0
    assert f"note: the measurements in {str(path)!r} were damaged; measured anew" in said.err
    assert "measure" not in run("prune", model, "--no-verify").err


def test_a_latency_target_with_a_clock_of_its_own(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every unit that goes takes a twenty-fourth of the time."""

    def clock(self: object, plan: Plan) -> float:
        return 1 - sum(group.removed for group in plan.groups) / 24

    monkeypatch.setattr("onnxprune.targets.clock.StopWatch.__call__", clock)
    monkeypatch.setattr("onnxprune.targets.clock.StopWatch.original_ms", lambda self: 10.0)
    for target in ("latency=0.5", "latency=5ms"):
        words = ["--target", target, "--min-keep", "0", "--no-verify", "--plan", "p.json"]
        assert run("prune", model, *words).code == 0
        assert sum(removed(tmp_path / "p.json").values()) == 12
        assert meta(tmp_path)["bound_by"] == "latency"
    said = run("prune", model, "--target", "latency=20ms")
    assert (said.code, "the model holds all targets as it is" in said.err) == (2, True)
    said = run("prune", model, "--target", "latency=0.01")
    assert "takes 0.12 of the original's time (held most by stem, body.1)" in said.err


def test_the_file_may_hold_all_that_the_command_line_does(run: Run, model: Path, tmp_path: Path) -> None:
    import numpy as np

    folder = tmp_path / "options"
    folder.mkdir()
    np.save(folder / "x.npy", np.random.default_rng(0).random((12, 3, 8, 8), np.float32))
    text = (
        'max_drop = 0.5\ndata = {spec = "x.npy", limit = 8}\ncalib = "x.npy"\nrun = "way"\nthreads = 2\nround_to = 1\n'
    )
    (folder / "p.toml").write_text(text)
    words = ["prune", model, "--config", "options/p.toml", "--no-bench", "--json"]
    found = run(*words, "--normalize", "macs").data
    assert found["options"]["max_drop"] == 0.5
    assert found["after"]["data"]["samples"] == 8
    assert any("compensated on 12 samples" in note for note in found["notes"])
    assert (folder / "way" / "tries.json").exists()
    assert run(*words, "--normalize", "macs", "--limit", "4", "--run", "x").data["after"]["data"]["samples"] == 4
    assert (tmp_path / "x" / "tries.json").exists()


@pytest.mark.parametrize(
    ("text", "words", "targets", "said"),
    [
        ('ratio = 0.5\ntargets = ["macs=0.9"]', (), ["macs=0.9", "ratio=0.5"], False),
        ("ratio = 0.5", ("--target", "macs=0.9"), ["macs=0.9"], True),
        ('targets = ["macs=0.9"]', ("--ratio", "0.5"), ["macs=0.9", "ratio=0.5"], False),
    ],
)
def test_a_ratio_in_the_file_and_targets(
    text: str, words: tuple[str, ...], targets: list[str], said: bool, run: Run, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.toml").write_text(text)
    found = run("prune", model, "--config", "p.toml", *words, "--no-verify", "--json", "--round-to", "1")
    assert found.code == 0
    assert found.data["options"]["targets"] == targets
    assert ("note: --target takes the place of the ratio in 'p.toml'" in found.err) is said
