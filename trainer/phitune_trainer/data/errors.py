"""The error of training data that cannot be used."""


class DataError(Exception):
    """A sample, a data file or a picture is wrong. The text says where, what, and how to fix it."""
