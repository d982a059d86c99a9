"""Checkpoints: complete, atomic, readable without unpickling and at another number of ranks.

A checkpoint is a folder `step-00000200`::

    state-00000.safetensors   one file a rank; each tensor is a stretch of one parameter's state, in float32,
                              named "<kind>|<parameter>|<first element>"
    trainer.json              the step, and what belongs to it
    manifest.json             size and SHA-256 of the other files; written last

It is written under another name, synced, and renamed: a folder of that name is whole, or it was damaged
later, which its manifest shows. Samples and random numbers of a step follow from the seed and the step, so
neither a sampler's position nor a generator's state needs saving.
"""
