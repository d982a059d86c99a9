"""Figures of the trainer, one file a row: start reading at `row.py`."""
