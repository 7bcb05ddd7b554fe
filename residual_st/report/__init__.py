"""HTML report on fairseq runs: size, quality, training curves and translations."""
