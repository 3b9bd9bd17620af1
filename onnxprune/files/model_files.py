"""Models given as files or in memory: every one of them as a file, under a name of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from onnxprune.files.model import Model
from onnxprune.files.scratch_folder import scratch_folder
from onnxprune.files.store import save


@contextmanager
def as_files(models: Sequence[str | Path | Model]) -> Iterator[list[Path]]:
    """A file for each model, temporary ones for those in memory."""
    with scratch_folder() as folder:
        paths = []
        for index, model in enumerate(models):
            path = folder / f"{index}.onnx" if isinstance(model, Model) else Path(model)
            if isinstance(model, Model):
                save(model, path)
            paths.append(path)
        yield paths


def titles_of(models: Sequence[str | Path | Model]) -> list[str]:
    """File names; whole paths where two files are called the same, numbers where even these are."""
    paths = [model.path if isinstance(model, Model) else Path(model) for model in models]
    full = [str(path) if path else "model" for path in paths]
    numbered = [f"{name} ({index + 1})" for index, name in enumerate(full)]
    short = [path.name if path else "model" for path in paths]
    return next(names for names in (short, full, numbered) if len(set(names)) == len(names))
