"""Figures of the operator under load, one file a scene: start reading at `rows.py`, then `scene.py`."""
