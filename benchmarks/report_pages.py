"""How large the page about a model is, how long it takes to make, and how long Chromium takes to open it.

    python benchmarks/report_pages.py model.onnx [model.onnx ...] [--ratio 0.4]

Each model is analysed and pruned (nothing is verified, timed or written beside the page). The page is opened at 390 and
1,440 px in light and dark; the times are the medians of the four loads: until everything is laid out, and what of that
is work of the page's thread, which a busy machine stretches less. Needs Chromium.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import onnxprune
from onnxprune.report import Findings, gather, render

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import browser

OPENED = "performance.getEntriesByType('navigation')[0].loadEventEnd"
WIDE = "document.documentElement.scrollWidth"


def page_of(path: str, ratio: float) -> tuple[str, float]:
    model = onnxprune.load(path)
    coupling = onnxprune.analyze(model)
    scores = onnxprune.score(model, coupling)
    plan = onnxprune.select(coupling, scores, ratio=ratio)
    pruned = onnxprune.apply(model, plan)
    start = time.perf_counter()
    found = Findings(model, coupling, "onnxprune prune", pruned=pruned, plan=plan, scores=scores)
    text = render(gather(found))
    return text, time.perf_counter() - start


def opened(text: str) -> tuple[float, float, bool]:
    """Milliseconds until it is open, those of work in them, each the median of the loads; and whether it fits."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "page.html"
        path.write_text(text, "utf-8")
        times, work, fits = [], [], True
        with browser.tab(Path(folder) / "profile") as tab:
            tab.call("Performance.enable")
            for width in (390, 1440):
                for dark in (False, True):
                    before = spent(tab)
                    tab.open(path, width=width, dark=dark)
                    tab.value("new Promise(done => setTimeout(done, 0))")
                    times.append(float(tab.value(OPENED)))
                    work.append(1e3 * (spent(tab) - before))
                    fits &= tab.value(WIDE) <= width
        return statistics.median(times), statistics.median(work), fits


def spent(tab: browser.Tab) -> float:
    """Seconds of the page's own thread."""
    metrics = tab.call("Performance.getMetrics")["metrics"]
    return next(float(item["value"]) for item in metrics if item["name"] == "TaskDuration")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--ratio", type=float, default=0.4)
    args = parser.parse_args()
    print(f"{'model':<36} {'page':>9} {'made in':>9} {'opens in':>9} {'work':>9}  fits")
    for name in args.models:
        text, seconds = page_of(name, args.ratio)
        ms, work, fits = opened(text)
        size = f"{len(text.encode()) / 1e3:6.0f} kB"
        told = "yes" if fits else "no"
        print(f"{Path(name).name:<36} {size} {seconds:7.2f} s {ms:6.0f} ms {work:6.0f} ms  {told}")


if __name__ == "__main__":
    main()
