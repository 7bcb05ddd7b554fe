"""Forward passes of layers with shared matrices: the same outputs as fairseq's, in less time and memory."""
