"""The forward passes of layers with shared matrices: the same function as fairseq's, in less time and memory."""
