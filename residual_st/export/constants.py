"""Small constants of a graph."""

import numpy as np
import spox.opset.ai.onnx.v21 as op
from spox import Var


def ints(*values: int) -> Var:
    return op.const(np.array(values, np.int64))


def integer(value: int) -> Var:
    return op.const(np.int64(value))


def number(value: float) -> Var:
    return op.const(np.float32(value))
