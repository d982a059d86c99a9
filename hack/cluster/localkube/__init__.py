"""A real Kubernetes on one machine, from Go modules, with as many nodes as asked for.

Standard library only, so that the folder can be lifted into another project as it is. `cli` is the way in;
`plan` and `paths` say what a cluster consists of; `up`, `down` and `status` are its life; every other module
is one part (network, processes, cgroups, images, ...) that these three put together.
"""
