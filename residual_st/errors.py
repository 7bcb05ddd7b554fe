"""The one error for input that cannot be used."""


class InputError(ValueError):
    """A flag, a file or a checkpoint that cannot be used. The message is one sentence: what it is, and what would be right."""
