"""Weights become tensors and tensors weights, bit by bit where the types allow it.

Half floats are held as float32: what training adds is smaller than what half floats can tell apart. Going back they are
rounded, so an untouched weight is exactly what it was. Unsigned integers that torch cannot compute with become wider.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx import helper

from onnxprune.errors import UserError
from onnxprune.files.tensors import Tensor

_T = onnx.TensorProto
FLOATS = frozenset([_T.FLOAT, _T.FLOAT16, _T.BFLOAT16, _T.DOUBLE])
_TYPES: dict[int, torch.dtype] = {
    _T.FLOAT: torch.float32,
    _T.FLOAT16: torch.float32,
    _T.BFLOAT16: torch.float32,
    _T.DOUBLE: torch.float64,
    _T.INT8: torch.int8,
    _T.INT16: torch.int16,
    _T.INT32: torch.int32,
    _T.INT64: torch.int64,
    _T.UINT8: torch.uint8,
    _T.UINT16: torch.int32,
    _T.UINT32: torch.int64,
    _T.UINT64: torch.int64,
    _T.BOOL: torch.bool,
    _T.INT4: torch.int8,
    _T.UINT4: torch.uint8,
}
_NARROW = {"int4": np.int8, "uint4": np.uint8, "uint16": np.int32, "uint32": np.int64, "uint64": np.int64}


def torch_dtype(number: int, floats: torch.dtype | None = None) -> torch.dtype:
    """What an ONNX element type is computed in; `floats` replaces all floating types."""
    found = _TYPES.get(number)
    if found is None:
        name = _T.DataType.Name(number) if number in _T.DataType.values() else str(number)
        raise UserError(f"torch has no counterpart of the element type {name}; convert the model to float32 first")
    return floats if floats is not None and found.is_floating_point else found


def to_tensor(weight: Tensor, floats: torch.dtype | None = None) -> torch.Tensor:
    """A copy of the weight, in the type that it is computed in."""
    dtype = torch_dtype(weight.dtype, floats)
    return from_array(weight.array()).to(dtype)


def from_array(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """A copy of the array."""
    if array.dtype == ml_dtypes.bfloat16:
        array = array.astype(np.float32)
    array = array.astype(_NARROW.get(array.dtype.name, array.dtype))
    return torch.from_numpy(np.array(array, order="C"))  # a copy: files are mapped read-only


def to_array(tensor: torch.Tensor, dtype: int) -> np.ndarray[Any, Any]:
    """The tensor's values in an ONNX element type."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return np.asarray(tensor.numpy().astype(helper.tensor_dtype_to_np_dtype(dtype)))
