"""What a resync reads of a LIST of metadata."""

from __future__ import annotations

import json

import pytest

from phitune_operator import metadata_list

OBJECT = {
    "apiVersion": "meta.k8s.io/v1",
    "kind": "PartialObjectMetadata",
    "metadata": {
        "namespace": "team",
        "name": "digits-1",
        "uid": "0001",
        "resourceVersion": "17",
        "labels": {"phitune.dev/job": "digits"},
        "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
    },
}


def test_whose_and_how_old_is_read_and_the_rest_is_passed_over() -> None:
    answer = {"metadata": {"resourceVersion": "20", "continue": "more"}, "items": [OBJECT]}
    metadata = OBJECT["metadata"]
    assert isinstance(metadata, dict)
    kept = {name: value for name, value in metadata.items() if name != "managedFields"}
    assert metadata_list.read(json.dumps(answer).encode()) == {
        "metadata": {"continue": "more"},
        "items": [{"metadata": kept}],
    }


@pytest.mark.parametrize("text", ['{"metadata": {}, "items": []}', '{"items": null}', "{}"])
def test_empty_list_is_read(text: str) -> None:
    assert not metadata_list.read(text.encode()).get("items")


def test_what_is_no_list_is_no_list() -> None:
    with pytest.raises(ValueError, match="items"):
        metadata_list.read(b'{"items": 3}')
