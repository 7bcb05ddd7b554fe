"""Recordings: how they are read, where they are cut, and what a model is given of them. numpy, and no torch."""
