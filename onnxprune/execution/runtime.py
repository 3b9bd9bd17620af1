"""onnxruntime maps the weights from a file; none is copied unless an optimisation of its own rewrites it.

Measured on a 108 MB network, peak memory of the whole process: weights inside the bytes 388 MB, handed over with
`add_external_initializers` 289 MB (it copies them), mapped from a file 181 MB. So the graph's bytes declare the
weights as external: in the file they came from, where that is possible, else in a temporary one that is unlinked
once it is mapped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from onnxprune.errors import NotRunnable, NotWritable, UserError
from onnxprune.files import external, wire
from onnxprune.files.model import Model
from onnxprune.files.regions import Region
from onnxprune.files.scratch_folder import scratch_folder
from onnxprune.files.tensors import Tensor, item_bits
from onnxprune.text.kinds import is_whole

if TYPE_CHECKING:
    import onnxruntime

MOST_THREADS = 1024
"""onnxruntime starts as many as it is told to."""

_FOLDER = "session.model_external_initializers_file_folder_path"


def session(
    model: Model, *, threads: int = 1, optimize: bool = True, providers: Sequence[str] | None = None
) -> onnxruntime.InferenceSession:
    """A session ready to run, in the least memory without `optimize`; a model that is refused is a `UserError`."""
    import onnxruntime as ort

    check_threads(threads)
    chosen = list(providers or ["CPUExecutionProvider"])
    for name in chosen:
        if name not in ort.get_available_providers():  # onnxruntime would quietly run on the CPU
            known = ", ".join(ort.get_available_providers())
            raise UserError(f"this onnxruntime has no execution provider {name!r}; it has {known}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised; onnxruntime would say it on stderr as well
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")  # a packed weight is a copied weight
    with scratch_folder() as scratch:
        folder, places = _in_place(model) or _written(model, scratch)
        options.add_session_config_entry(_FOLDER, str(folder))
        graph = b"".join(wire.join(model.proto, (_entry(weight, places) for weight in model.weights.values())))
        try:
            return ort.InferenceSession(graph, options, providers=chosen)
        except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
            raise NotRunnable(f"onnxruntime does not accept the model: {_cause(error)}") from None


def check_threads(threads: int) -> None:
    """Refuse a number of threads that no machine has; 0 is as many as onnxruntime likes."""
    if not (is_whole(threads) and 0 <= threads <= MOST_THREADS):
        raise UserError(f"threads must be a whole number from 0 to {MOST_THREADS}, not {threads!r}")


def run(session: onnxruntime.InferenceSession, feeds: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """All outputs by name."""
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:  # noqa: BLE001  as above; wrong feeds come as ValueError, failing kernels as something else
        raise NotRunnable(f"onnxruntime cannot run the model: {_cause(error)}") from None


def _in_place(model: Model) -> tuple[Path, dict[str, tuple[str, int]]] | None:
    """The weights' own files, where they are unedited, still under their names, in one folder and naturally aligned."""
    places: dict[str, tuple[str, int]] = {}
    folder = Path()
    for weight in filter(external.separable, model.weights.values()):
        source = weight.source
        if not isinstance(source, Region) or weight.edited or source.offset % max(item_bits(weight.dtype) // 8, 1):
            return None  # kernels may be compiled for aligned floats, and protobuf aligns nothing
        path = source.file.path.resolve()
        if (places and path.parent != folder) or not source.file.current():
            return None
        folder = path.parent
        places[weight.name] = (path.name, source.offset)
    return folder.resolve(), places


def _written(model: Model, scratch: Path) -> tuple[Path, dict[str, tuple[str, int]]]:
    weights = [weight for weight in model.weights.values() if external.separable(weight)]
    offsets = external.layout(weights)
    try:
        with (scratch / "weights").open("wb") as file:
            external.write(file, weights, offsets)
    except OSError as error:
        raise NotWritable(
            f"cannot write {model.nbytes >> 20} MiB of weights to the temporary folder {str(scratch.parent)!r}: "
            f"{error.strerror}; set TMPDIR to a folder with more room"
        ) from None
    return scratch, {name: ("weights", offset) for name, offset in offsets.items()}


def _entry(weight: Tensor, places: Mapping[str, tuple[str, int]]) -> tuple[bytes, None]:
    proto = wire.placed(weight, *places[weight.name]) if weight.name in places else weight.to_proto()
    return proto.SerializeToString(), None


def _cause(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
