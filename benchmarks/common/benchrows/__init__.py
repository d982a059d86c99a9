"""What the benchmarks share: rows, the file that they are written to, and the command that measures them."""
