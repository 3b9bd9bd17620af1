"""The same function on many arguments, in processes here or on a cluster: joblib does it, this chooses how.

    loky, threading      processes or threads of this machine
    dask                 the cluster whose scheduler DASK_SCHEDULER_ADDRESS names, else processes of this machine
    ray                  the cluster that RAY_ADDRESS names, else processes of this machine

A function of a module and arguments that can be pickled go there, results come back in whatever order they are ready.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, TypeVar

from onnxprune.errors import MissingExtra, UserError
from onnxprune.text.kinds import is_whole

T = TypeVar("T")

BACKENDS = ("loky", "threading", "dask", "ray")
_PACKAGES = {"dask": ("distributed", "dask[distributed]"), "ray": ("ray", "ray")}
MOST_JOBS = 4096


def check_parallel(jobs: int, backend: str | None) -> None:
    """Refuse what cannot be, before any work is done."""
    if not (is_whole(jobs) and 1 <= jobs <= MOST_JOBS):
        raise UserError(f"jobs must be a whole number from 1 to {MOST_JOBS}, not {jobs!r}")
    if backend is not None and backend not in BACKENDS:
        raise UserError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
    if jobs == 1 and backend is None:
        return
    if find_spec("joblib") is None:
        raise MissingExtra("to run in parallel, install joblib: pip install 'onnxprune[parallel]'")
    if backend in _PACKAGES and find_spec(_PACKAGES[backend][0]) is None:
        raise MissingExtra(f"for the backend {backend}, install it: pip install '{_PACKAGES[backend][1]}'")


def in_parallel(
    function: Callable[..., T], arguments: Sequence[tuple[Any, ...]], jobs: int, backend: str | None
) -> Iterator[tuple[int, T]]:
    """The place of each argument, and what the function makes of it, as it comes."""
    if not arguments:
        return  # no cluster is started for nothing
    import joblib

    name = backend or "loky"
    tasks = [joblib.delayed(_numbered)(i, function, given) for i, given in enumerate(arguments)]
    with _cluster(name, jobs), joblib.parallel_config(backend=name, n_jobs=jobs):
        try:
            if name != "ray":
                yield from joblib.Parallel(return_as="generator_unordered")(tasks)
                return
            for start in range(0, len(tasks), 2 * jobs):  # ray gives results only when all of them are there
                yield from joblib.Parallel()(tasks[start : start + 2 * jobs])
        except BrokenProcessPool:
            raise UserError("a process was killed, mostly for want of memory: try fewer jobs") from None


def _numbered(index: int, function: Callable[..., T], given: tuple[Any, ...]) -> tuple[int, T]:
    return index, function(*given)


def _cluster(backend: str, jobs: int) -> AbstractContextManager[object]:
    """What has to be there while the backend is used."""
    if backend == "dask":
        import dask
        from distributed import Client

        address = dask.config.get("scheduler-address", None)
        local = {} if address else {"n_workers": jobs, "threads_per_worker": 1, "dashboard_address": None}
        try:
            client: AbstractContextManager[object] = Client(**local)
        except OSError as error:
            raise UserError(f"there is no Dask scheduler at {address!r}: {error}") from None
        return client
    if backend == "ray":
        from ray.util.joblib import register_ray

        register_ray()
    return nullcontext()
