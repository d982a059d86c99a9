"""One rule a file: small functions on data, with names that read as English. `plan` asks them."""
