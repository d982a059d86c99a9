"""The claim of the volume that holds model, data, checkpoints and results."""

from phitune_operator import names
from phitune_operator.kinds import CLAIM, Object
from phitune_operator.render.subject import Subject


def claim(subject: Subject) -> Object | None:
    """Return the claim that the job asks for, or None if it uses one that exists.

    A claim that is retained has no owner: deleting the job never deletes weights. Labels say whose it was.
    """
    storage = subject.spec.storage
    if storage.size is None:
        return None
    spec: Object = {
        "accessModes": ["ReadWriteMany" if subject.num_nodes > 1 else "ReadWriteOnce"],
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    return {
        "apiVersion": CLAIM.api_version,
        "kind": CLAIM.kind,
        "metadata": subject.metadata(names.workspace_claim(subject.name), is_owned=not storage.retain),
        "spec": spec,
    }
