"""Builds the operator's and the trainer's image on a machine without a container registry.

The Dockerfiles in docker/ are the ones that anyone can build with docker from ordinary base images. Here they
are built with buildah on two images that are made from packages alone: a Debian with Python (`base`), and on
it the locked Python packages (`deps`). Each of the three steps is kept in the cache under a key of all that
goes into it, so that a change to our own code costs one small layer.
"""
