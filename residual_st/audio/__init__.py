"""Audio: reading, resampling, cutting at pauses, filterbanks. Needs numpy, but not torch."""
