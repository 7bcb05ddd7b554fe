"""One page on runs of fairseq: size, quality, training curves and translations."""
