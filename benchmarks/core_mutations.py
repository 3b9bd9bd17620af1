"""Break the engine under the rules, one line at a time, and see that the tests notice.

    python benchmarks/core_mutations.py              all of them, a table, and the survivors
    python benchmarks/core_mutations.py --only solve facts

Each mutant is a copy of the package with one line replaced, and the tests are run on it until one fails. A line that is
no longer there is an error: then the list below has to follow the code. `mutations.py` does the same to the rules.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = (
    *("facts", "solve", "contents", "analyze", "apply", "mask", "model_forms"),
    *("probes", "verify", "period", "goldens", "random_graphs"),
)


@dataclass(frozen=True)
class Mutant:
    """One line of one module, and what stands there instead."""

    module: str
    old: str
    new: str
    what: str


MUTANTS = (
    # Facts
    Mutant("facts", "if lonely.any():", "if False:", "a tie with what cannot go does not freeze"),
    Mutant("facts", "if size <= 1 or size > LONGEST:", "if size < 1:", "a single position can go"),
    Mutant(
        "facts",
        "np.tile(np.repeat(alive[0].ids, inner), outer)",
        "np.repeat(np.tile(alive[0].ids, outer), inner)",
        "a merged axis repeats in the wrong order",
    ),
    Mutant("facts", "and (lines == lines[:, :1]).all():", "and True:", "any factor is taken for the one that changes"),
    Mutant("facts", "zero = all(axis.zero for axis in alive)", "zero = True", "a merged axis claims zeros"),
    Mutant(
        "facts",
        "if any(axis.factors for axis in axes) and",
        "if False and",
        "axes like batch * heads are tied however they are made",
    ),
    Mutant(
        "facts",
        "self.frozen.append((ids[ids != 0], code, sentence, self.node))",
        "pass",
        "nothing is ever frozen by a statement",
    ),
    # Solver
    Mutant("solve", "facts.frozen.extend(facts.inexacts)", "pass", "inexact cuts pass for exact ones"),
    Mutant("solve", "now = forced if any(forced) else", "now =", "what is forced does not come first"),
    Mutant("solve", "units > 0 and bool(liked[roots].any())", "False", "no factor is preferred"),
    Mutant("solve", "units > 0 and not copied[roots].any()", "units > 0", "a factor that repeats is as good as any"),
    Mutant("solve", "(keys[i] in live and ranks[i].units > 0, ranks[i], -i)", "(ranks[i], -i)", "sharers part"),
    Mutant("solve", "ranks[i].units > 0, ranks[i], -i)", "ranks[i].units > 0, -i)", "the first factor is always cut"),
    Mutant(
        "solve",
        "                dead.add(keys[i])",
        "                facts.frozen.pop()\n                dead.add(keys[i])",
        "the other factor stays free",
    ),
    Mutant("solve", "ties.append((owner[both], lines[both]))", "pass", "lines are not tied to their factor"),
    Mutant("solve", "if not alive and product.whole.any():", "if False:", "a product without a factor stays free"),
    Mutant("solve", "if not both.all():", "if False:", "fixed positions in a product do not freeze their lines"),
    Mutant("solve", "free[roots] & free[lines].all(axis=1)", "free[roots]", "frozen lines count as units that can go"),
    Mutant("solve", "or any(key in dead for key in keys)", "", "a factor is cut although it was just frozen"),
    # Trace
    Mutant("trace", "for output in model.graph.output:", "for output in ():", "graph outputs may be cut"),
    Mutant(
        "trace",
        'self._escape(output.name, f"as the graph output {output.name!r}")',
        "pass",
        "a length may be an output",
    ),
    Mutant("trace", 'self._escape(name, f"inside the body of {node.op_type}")', "pass", "a length may enter a body"),
    Mutant("trace", 'self._escape(node.input[position], f"by {node.op_type}")', "pass", "a length may be a number"),
    Mutant("trace", "for name in captured(graph):", "for name in ():", "bodies capture nothing"),
    Mutant("trace", "self._account(xs, outs, mark)", "pass", "an axis that a rule forgets is free"),
    Mutant("trace", "TRACED - COUNTS", "TRACED", "numbers of positions are lengths like others"),
    Mutant("trace", "tensor.dtype in WEIGHTS", "True", "indices hold zeros where they are cut"),
    Mutant(
        "trace",
        "if isinstance(size, int) and isinstance(axis.size, int) and size != axis.size:",
        "if False:",
        "shape inference may be contradicted",
    ),
    # Shape arithmetic
    Mutant("contents", "chosen.sources | c.sources", "chosen.sources", "a choice forgets what decided it"),
    Mutant(
        "sizes", "if isinstance(size, int) or _named(size) != size:", "if isinstance(size, int):", "2*n+1 is a product"
    ),
    # Mending
    Mutant(
        "surgery",
        "int(p) - int(np.searchsorted(self.lost(name, axis), p))",
        "int(p)",
        "positions do not move up",
    ),
    Mutant("surgery", "        if not wrong:", "        if True:", "stored sizes are never mended"),
    Mutant("surgery", "self._overlay(index, wrong, wanted)", "pass", "computed sizes are never overlaid"),
    Mutant(
        "surgery", "name in self._cut or name in self.new for", "name in self._cut for", "only cut tensors are mended"
    ),
    Mutant("apply", "    _declare(pruned)", "    pass", "shapes are not written down"),
    # Reading groups, masking, comparing
    Mutant("analyze", "made & (solution.frozen < 0)", "solution.frozen < 0", "groups without a maker"),
    Mutant("analyze", "here.ids.size, weight", "positions.size, weight", "a slot is as long as its group"),
    Mutant("mask", 'if tensor is None or slot.role == "keep":', "if tensor is None:", "divisors are masked"),
    Mutant("verify", "if not np.array_equal(finite, np.isfinite(found)):", "if False:", "infinities may appear"),
    Mutant("verify", "if expected.shape != found.shape:", "if False:", "shapes may differ"),
    Mutant("verify", "if verdict.inexact or not verdict.ok:", "if True:", "a comparison that proves nothing passes"),
    Mutant("verify", "return gap / scale if scale else gap", "return 0.0", "no difference is seen"),
    Mutant("probes", "if any(name in decided for name in fed):", "if False:", "what follows a decision is compared"),
    Mutant("probes", "elif _decides(node, fed, shapes):", "elif False:", "nothing decides"),
)
EQUIVALENT = {
    "what is forced does not come first": "the choice is sound in any order, and what is forced has no other choice",
}
"""Mutants that no test can notice, by what they do, with the reason."""


def killed(mutant: Mutant) -> str:
    """The test that noticed, or nothing."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        package = Path(folder) / "onnxprune"
        shutil.copytree(ROOT / "onnxprune", package, ignore=shutil.ignore_patterns("__pycache__"))
        (path,) = package.glob(f"*/{mutant.module}.py")
        text = path.read_text()
        if text.count(mutant.old) != 1:
            raise SystemExit(f"{mutant.module}.py has {text.count(mutant.old)} times {mutant.old!r}")
        path.write_text(text.replace(mutant.old, mutant.new))
        paths = [path for name in TESTS for path in (ROOT / "tests").rglob(f"test_{name}.py")]
        tests = [str(path) for path in [*paths, ROOT / "tests" / "rules"]]
        command = [
            sys.executable,
            "-P",
            "-m",
            "pytest",
            "-x",
            "-q",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            "--tb=no",
            *tests,
        ]
        environment = os.environ | {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1", "RANDOM_GRAPHS": "60"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    said = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode == 0:
        return ""
    return (said or [done.stdout[-200:] + done.stderr[-200:]])[0].removeprefix("FAILED ").partition(" - ")[0]


NOTHING = Mutant("facts", "if lonely.any():", "if lonely.any():", "nothing is broken")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="MODULE")
    parser.add_argument("--jobs", type=int, default=2, metavar="N")
    options = parser.parse_args()
    tried = [mutant for mutant in MUTANTS if not options.only or mutant.module in options.only]
    start = time.perf_counter()
    survivors = 0
    failing = killed(NOTHING)
    if failing:
        raise SystemExit(f"{failing} fails as things are, so it would kill every mutant")
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutant, test in zip(tried, pool.map(killed, tried), strict=True):
            reason = EQUIVALENT.get(mutant.what, "")
            survivors += not test and not reason
            verdict = f"killed by {test}" if test else f"equivalent: {reason}" if reason else "SURVIVED"
            print(f"{mutant.module:10s} {mutant.what:58s} {verdict}", flush=True)
    print(f"\n{len(tried)} mutants, {survivors} survived, {time.perf_counter() - start:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
