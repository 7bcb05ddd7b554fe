"""Export of trained models as ONNX graphs, in which every shared matrix is stored once."""

PRECISIONS = ("fp32", "int8", "int4")  # precision of matrices
