"""The command `phitune`: the one package that may use both the operator's and the trainer's half."""
