"""Checkpoints: complete, atomic, written beside the training, readable without unpickling and by other ranks.

A checkpoint is a folder `step-00000200`::

    state-00000.safetensors   one file a rank; each tensor is a stretch of one parameter's state, in float32,
                              named "<kind>|<parameter>|<first element>"
    trainer.json              the step, the run's config, and the engine's numbers beside the tensors
    manifest.json             size and SHA-256 of the other files, and of itself; written last

It is written under another name, synced, and renamed: a folder of that name is whole, or it was damaged
later, which its manifest shows. Samples and random numbers of a step follow from the seed and the step, and
the learning rate from the config, so that neither a sampler's position nor a generator's state needs saving.
"""
