"""The error of a model folder that cannot be used."""


class ModelFilesError(Exception):
    """A model folder cannot be used. The text says which file, what is wrong, and what was expected."""
