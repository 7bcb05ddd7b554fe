"""One page on runs of fairseq: how large, how good, what they say."""
