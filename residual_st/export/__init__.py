"""Trained models as ONNX graphs, in which every shared matrix is stored once."""
