"""What the shell sees: exit codes, streams, and nothing heavy imported for nothing. In processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import onnxprune.cli
from onnxprune.cli import main
from onnxprune.cutting.plan import Plan
from onnxprune.errors import UserError
from onnxprune.files.model import Model
from onnxprune.files.tensors import Tensor
from onnxprune.passes.apply import apply
from onnxprune.version import __version__

from .conftest import Said

Run = Callable[..., Said]
COMMAND = [sys.executable, "-m", "onnxprune"]
NAMES = ("analyze", "prune", "apply", "verify", "bench")


def shell(*argv: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, argv)], cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


def imported(argv: list[str], cwd: Path) -> set[str]:
    code = (
        "import sys; from onnxprune.cli import main; code = main(sys.argv[1:]); "
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=cwd, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    for argv in (["--help"], ["prune", "--help"], ["--version"]):
        assert not imported(argv, tmp_path) & {"torch", "onnxruntime", "networkx", "rich", "onnxscript"}


def test_analyze_and_unverified_pruning_need_no_runtime(model: Path, tmp_path: Path) -> None:
    for argv in (
        ["analyze", str(model)],
        ["prune", str(model), "--round-to", "1", "--no-verify"],
        ["prune", str(model), "--round-to", "1", "--verify", "structural"],
    ):
        assert not imported(argv, tmp_path) & {"torch", "onnxruntime", "networkx", "rich.progress"}


@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_has_an_example_and_explains_the_ratio(run: Run, name: str) -> None:
    said = run(*filter(None, [name]), "--help")
    assert said.code == 0
    assert f"  onnxprune {name}" in said.out.split("example", 1)[1]
    assert "fraction of" in said.out
    assert "not a fraction of the parameters" in said.out
    assert max(map(len, said.out.splitlines())) <= 80


def test_version(run: Run) -> None:
    assert run("--version").out == f"onnxprune {__version__}\n"


def test_json_is_all_there_is_on_stdout(model: Path, tmp_path: Path) -> None:
    pruned = shell("prune", model, "-o", "small.onnx", "--plan", "p.json", "--json", "--no-bench", "-v", cwd=tmp_path)
    assert json.loads(pruned.stdout)["command"] == "prune"
    assert "Apply" in pruned.stderr
    for argv in (
        ["analyze", model],
        ["apply", model, "p.json", "-o", "again.onnx", "--no-bench"],
        ["verify", model, "small.onnx", "--plan", "p.json"],
        ["bench", model, "small.onnx", "--runs", "5"],
    ):
        done = shell(*argv, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["command"] == argv[0]


def test_quiet_leaves_stderr_empty_but_for_errors(model: Path, tmp_path: Path) -> None:
    done = shell("prune", model, "-q", "--no-bench", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "params" in done.stdout
    done = shell("prune", "nowhere.onnx", "-q", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "onnxprune: error: 'nowhere.onnx' does not exist\n"


def break_a_weight(model: Model, plan: Plan) -> Model:
    pruned = apply(model, plan)
    name = "body.2.weight"
    broken = Tensor.of(name, -pruned.weights[name].array())
    return pruned.replace(weights={**pruned.weights, name: broken})


@pytest.mark.parametrize("command", ["prune", "apply"])
def test_a_failed_verification(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    assert run("prune", model, "--plan", "p.json", "--no-verify", "-o", "good.onnx").code == 0
    monkeypatch.setattr("onnxprune.passes.apply.apply", break_a_weight)
    plan = ["p.json"] if command == "apply" else ["--plan", "new.json"]
    said = run(command, model, *plan, "-o", "bad.onnx", "--no-bench", "--json")
    assert said.code == 3
    assert said.out == ""
    assert said.err.startswith("onnxprune: error: verification failed: 'logits' differs from the masked original by ")
    assert len(said.err.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "p.json", "good.onnx"}


def test_a_failed_verification_leaves_the_old_output(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = model.read_bytes()
    monkeypatch.setattr("onnxprune.passes.apply.apply", break_a_weight)
    assert run("prune", model, "-o", model, "--no-bench").code == 3
    assert model.read_bytes() == before


def test_verify_of_the_wrong_file(run: Run, model: Path) -> None:
    assert run("prune", model, "--plan", "p.json", "--no-verify").code == 0
    said = run("verify", model, model, "--plan", "p.json", "--json")
    assert said.code == 3
    assert said.data["ok"] is False
    assert "where the plan leaves" in said.data["notes"][0]
    assert "verification failed" in said.err


def test_an_interruption(run: Run, monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxprune.cli.source.store.load", interrupt)
    said = run("analyze", model)
    assert (said.code, said.out, said.err) == (130, "", "onnxprune: interrupted\n")


@pytest.mark.parametrize("step", ["Save", "Verify"])
def test_a_model_that_was_not_written_leaves_no_plan(
    run: Run, monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path, step: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise UserError("cannot write: No space left on device")

    monkeypatch.setattr(f"onnxprune.passes.{step.lower()}.{step.lower()}", full)
    (tmp_path / "p.json").write_text("old")
    assert run("prune", model, "--plan", "p.json", "--no-bench").code == 2
    assert (tmp_path / "p.json").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "p.json"}


WAITING = """
import sys, time
from onnxprune import passes
from onnxprune.cli import main

def wait(model, path):
    print("saving", file=sys.stderr, flush=True)
    time.sleep(60)

passes.save.save = wait
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals end programs this way on POSIX")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_leave_nothing_behind(model: Path, tmp_path: Path, name: str, code: int) -> None:
    argv = [sys.executable, "-c", WAITING, "prune", str(model), "--plan", "p.json", "--no-verify", "-q"]

    def unignored() -> None:
        """Under nohup or in the background of a script the tests themselves may be told to ignore it."""
        signal.signal(getattr(signal, name), signal.SIG_DFL)

    with subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=unignored) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "saving\n"
        assert any(path.suffix == ".tmp" for path in tmp_path.iterdir()), "nothing was there to be removed"
        process.send_signal(getattr(signal, name))
        assert process.stderr.read() == "onnxprune: interrupted\n"
    assert process.returncode == code
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_signals_are_as_before_afterwards(run: Run, model: Path) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert run("analyze", model).code == 0
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("argv", [["analyze"], ["analyze", "--json"], ["prune", "--no-verify", "-o", "x.onnx"]])
def test_a_result_that_cannot_be_printed(model: Path, tmp_path: Path, argv: list[str]) -> None:
    command = " ".join([*COMMAND, argv[0], str(model), *argv[1:], "-q"])
    for end, why in ((">/dev/full", "No space left on device"), (">&-", "it is closed")):
        done = subprocess.run(f"{command} {end}", shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 4
        assert done.stderr.startswith(f"onnxprune: error: cannot write the result to stdout: {why}")
        assert len(done.stderr.splitlines()) == 1
        assert ("(written: 'x.onnx')" in done.stderr) == (tmp_path / "x.onnx").exists() == (argv[0] == "prune")


@pytest.mark.skipif(os.name != "posix", reason="a shell that can close streams")
def test_a_closed_stderr_costs_nothing(model: Path, tmp_path: Path) -> None:
    command = " ".join([*COMMAND, "prune", str(model), "--no-bench", "-o", "x.onnx", "2>&-"])
    done = subprocess.run(command, shell=True, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    assert "verification error" in done.stdout
    onnx.checker.check_model(tmp_path / "x.onnx", full_check=True)


def test_a_failing_runtime_says_one_line(model: Path, tmp_path: Path) -> None:
    """onnxruntime would print the error itself, on a stderr that is not Python's."""
    assert shell("prune", model, "--no-verify", "-o", "x.onnx", "--plan", "p.json", cwd=tmp_path).returncode == 0
    plan = json.loads((tmp_path / "p.json").read_text())
    plan["cuts"].append(
        {"group": "in", "index": [1], "slots": [{"tensor": "stem.weight", "axis": 1, "size": 3, "role": "in"}]}
    )
    (tmp_path / "p.json").write_text(json.dumps(plan))
    done = shell("apply", model, "p.json", "-o", "y.onnx", cwd=tmp_path)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "y.onnx").exists()


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("onnxprune.cli.source.store.load", bug)
    with pytest.raises(ZeroDivisionError):
        main(["analyze", str(model)])


@pytest.mark.skipif(os.name != "posix", reason="pipes break this way on POSIX")
def test_a_broken_pipe(model: Path, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as pipe:
        done = subprocess.run(
            [*COMMAND, "analyze", str(model)], stdout=pipe, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path
        )
    assert (done.returncode, done.stderr) == (onnxprune.cli.BROKEN_PIPE, "")


def test_the_installed_command_is_this_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("onnxprune")), "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"onnxprune {__version__}\n"


def test_a_plan_cannot_switch_the_comparison_off(run: Run, model: Path) -> None:
    assert run("prune", model, "--plan", "p.json").code == 0
    plan = json.loads(Path("p.json").read_text("utf-8"))
    plan["groups"][0]["inexact"] = ["normalised"]
    Path("q.json").write_text(json.dumps(plan), "utf-8")
    for argv in (["apply", model, "q.json", "-o", "o.onnx"], ["verify", model, "net-pruned.onnx", "--plan", "q.json"]):
        said = run(*argv)
        assert said.code == 2
        assert "holds inexact cuts (normalised); if that is meant, add --allow-inexact" in said.err
        assert run(*argv, "--allow-inexact").code == 0
