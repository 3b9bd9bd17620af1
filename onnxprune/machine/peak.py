"""Peak memory of running one model: that of a process which does nothing else.

The process imports NumPy and onnxruntime, opens the model and runs it twice; the figure is the most memory that was
resident at any moment, the interpreter and both libraries included (about 60 MB). On Linux that is VmHWM, not
`ru_maxrss`: a child's `ru_maxrss` starts at the size of the process that started it, so every model would seem at least
as big as the one who asks.

The same process shows whether a model runs at all: where onnxruntime crashes, it ends and not we.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.errors import NotRunnable, UserError

_CHILD = """
import json, sys
import numpy as np
import onnxruntime as ort

job = json.loads(sys.argv[1])
options = ort.SessionOptions()
options.intra_op_num_threads = job["threads"]
options.inter_op_num_threads = 1
options.log_severity_level = 4
session = ort.InferenceSession(job["model"], options, providers=job["providers"])
arrays = np.load(job["feeds"])
feeds = {}
for key, (name, dtype) in job["inputs"].items():
    array = arrays[key]
    if dtype:
        array = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, dtype)
    elif array.dtype.kind != "U":
        array = ort.OrtValue.ortvalue_from_numpy(array)
    feeds[name] = array
strings = any(isinstance(value, np.ndarray) for value in feeds.values())  # there are no OrtValues of strings
if strings:
    feeds = {name: value if isinstance(value, np.ndarray) else value.numpy() for name, value in feeds.items()}
run = session.run if strings else session.run_with_ort_values
for _ in range(2):
    run(None, feeds)
try:
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
except (OSError, StopIteration):
    try:
        import resource
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    except ImportError:
        peak = 0
print(peak)
"""

_PREFIX = re.compile(r"^[\w.]+: \[ONNXRuntimeError\] : \d+ : \w+ : ")
"""What every error of onnxruntime begins with."""


def peak_memory(path: Path, feeds: Mapping[str, NDArray[Any]], *, threads: int, providers: list[str]) -> int | None:
    """In bytes; None on a system that does not say."""
    done = _alone(path, feeds, threads, providers)
    if done.returncode != 0:
        raise UserError(f"{str(path)!r}: the process that measures memory failed: {_cause(done)}")
    return int(done.stdout.split()[-1]) or None


def check_runs(path: Path, feeds: Mapping[str, NDArray[Any]], *, threads: int, providers: list[str]) -> None:
    """Refuse a model that onnxruntime cannot run, even one at which it crashes."""
    done = _alone(path, feeds, threads, providers)
    if done.returncode < 0:
        raise NotRunnable("onnxruntime crashes on it")
    if done.returncode != 0:
        raise NotRunnable(f"onnxruntime cannot run it: {_cause(done).replace(f'Load model from {path} failed:', '')}")


def _alone(
    path: Path, feeds: Mapping[str, NDArray[Any]], threads: int, providers: list[str]
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        arrays, inputs = {}, {}
        for index, (name, array) in enumerate(feeds.items()):
            bits, dtype = _storable(array)
            arrays[f"input{index}"], inputs[f"input{index}"] = bits, (name, dtype)
        stored = Path(folder, "feeds.npz")
        np.savez(stored, allow_pickle=False, **arrays)
        job = {"model": str(path), "feeds": str(stored), "inputs": inputs, "threads": threads, "providers": providers}
        # -P: a file called numpy.py in the current folder must not be imported
        command = [sys.executable, "-P", "-c", _CHILD, json.dumps(job)]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def _cause(done: subprocess.CompletedProcess[str]) -> str:
    """What stands behind the last frame of the traceback; a crash leaves none."""
    _, frame, end = done.stderr.rstrip().rpartition("\n  File ")
    lines = [line.strip() for line in end.splitlines()[bool(frame) :] if not line.startswith("    ")]  # no code
    return _PREFIX.sub("", " ".join(lines))[:300] or f"its process ended with code {done.returncode}"


def _storable(array: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """The array in a form that needs no pickle, and its TensorProto type where NumPy has no such type."""
    if array.dtype.kind == "O":
        return array.astype(np.str_), 0
    if array.dtype.isbuiltin == 1:
        return array, 0
    bits = array.view(np.uint8 if array.dtype.itemsize == 1 else np.uint16)
    return bits, onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
