"""Values of options that several commands take."""

import argparse


def positive(text: str) -> int:
    """A whole number from 1."""
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def add_form_option(parser: argparse.ArgumentParser) -> None:
    """Add `-o`: whether the result is printed as text or as JSON; `args.form` is then one of the two."""
    parser.add_argument(
        "-o", dest="form", choices=["text", "json"], default="text", help="form of the result (default: text)"
    )
