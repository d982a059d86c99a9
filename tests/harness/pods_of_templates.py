"""The pods that controllers would make from templates, wherever these stand in an object."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.cluster import Object


def pods_of(objects: list[Object]) -> list[Object]:
    """A pod of every template, as a controller would make it."""
    return [as_pod(template) for found in objects for template in pod_templates(found)]


def as_pod(template: Object) -> Object:
    spec = {name: value for name, value in template["spec"].items() if name != "serviceAccountName"}
    labels = template.get("metadata", {}).get("labels", {})
    metadata = {"generateName": "sent-", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def pod_templates(value: Any) -> Iterator[Object]:
    """Every pod template anywhere in an object."""
    if isinstance(value, dict):
        if isinstance(value.get("spec"), dict) and "containers" in value["spec"]:
            yield value
        else:
            for inner in value.values():
                yield from pod_templates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pod_templates(inner)
