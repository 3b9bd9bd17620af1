"""Where a pipeline begins with a torch module: it becomes the file that the stages start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxprune.bridge import need_torch
from onnxprune.bridge.factory import check_inputs, export_factory, input_of
from onnxprune.errors import UserError
from onnxprune.text.functions import is_function_name


@dataclass(frozen=True)
class Export:
    """What a function of yours returns, as an ONNX file; see `onnxprune export`."""

    factory: str
    """`module:function`, called without arguments."""
    inputs: tuple[str, ...]
    """An example of each input, `[NAME:][TYPE:]SIZES`."""
    static_batch: bool = False
    """Fix the first axis as well."""
    fold_batchnorm: bool = False
    """Merge BatchNormalization, as torch does."""
    opset: int | None = None

    def check(self) -> None:
        if not is_function_name(self.factory):
            raise UserError(f"factory must be the name of a function, module:function, not {self.factory!r}")
        check_inputs([input_of(text) for text in self.inputs])
        need_torch()

    def made(self, path: Path) -> None:
        """Write the file."""
        export_factory(
            self.factory,
            [input_of(text) for text in self.inputs],
            path,
            static_batch=self.static_batch,
            fold_batchnorm=self.fold_batchnorm,
            opset=self.opset,
        )
