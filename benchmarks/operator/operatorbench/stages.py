"""What becomes of pods on nodes that kwok plays: they run at once, and end as their labels say. Pure."""

import json
from typing import Any

Object = dict[str, Any]

LABEL_END = "bench.phitune.dev/end"
"""On a gang's pod: `soon` ends it well after `SOON`; without the label it runs for ever."""
SOON = 10.0
"""Seconds."""
LAST_WORDS: Object = {
    "exitCode": 0,
    "progress": {
        "attempt": 1,
        "state": "done",
        "step": 1000,
        "totalSteps": 1000,
        "percent": 100.0,
        "epoch": 1.0,
        "loss": 0.4321,
        "learningRate": 0.0,
        "imagesPerSecond": 21.5,
        "tokensPerSecond": 8123.4,
        "mfu": 0.412,
        "etaSeconds": 0,
        "updatedAt": "2026-01-01T00:00:00Z",
    },
    "lastCheckpoint": {
        "step": 1000,
        "path": "incarnations/0001/checkpoints/step-00001000",
        "time": "2026-01-01T00:00:00Z",
    },
    "evaluation": {"metric": "anls", "value": 0.7654, "baseline": 0.61, "samples": 500, "step": 1000},
    "artifacts": {"adapter": "export/adapter", "report": "report.html"},
}
"""What rank 0 of a run leaves behind, so that a finished job's status is as long as a real one's."""

_RUNNING = """\
{{ $now := Now }}
phase: Running
startTime: {{ $now | Quote }}
hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
podIP: {{ PodIPWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace | Quote }}
conditions:
{{ range $kind := list "Initialized" "ContainersReady" "Ready" }}
- {type: {{ $kind }}, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
"""
_ENDED = """\
{{ $now := Now }}
phase: Succeeded
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: false
  restartCount: 0
  state:
    terminated:
      exitCode: 0
      reason: Completed
      startedAt: {{ $now | Quote }}
      finishedAt: {{ $now | Quote }}
      message: LAST_WORDS
{{ end }}
"""


def stages() -> list[Object]:
    """All of kwok's stages."""
    is_running = {"key": ".status.phase", "operator": "In", "values": ["Running"]}
    by_job = {"key": ".metadata.ownerReferences.[].kind", "operator": "In", "values": ["Job"]}
    ends_soon = {"key": f'.metadata.labels["{LABEL_END}"]', "operator": "In", "values": ["soon"]}
    return [
        # kwok takes no notice of the pods of a node that has no stage.
        _stage(
            "node-runs", [{"key": ".status.phase", "operator": "DoesNotExist"}], "phase: Running", kind="Node"
        ),
        _stage("pod-runs", [{"key": ".status.podIP", "operator": "DoesNotExist"}], _RUNNING),
        _stage("prepare-ends", [is_running, by_job], _ENDED.replace("LAST_WORDS", '""')),
        _stage(
            "gang-ends",
            [is_running, ends_soon],
            _ENDED.replace("LAST_WORDS", _quoted(LAST_WORDS)),
            delay=SOON,
        ),
    ]


def _quoted(value: Object) -> str:
    """JSON, as a string of YAML that the template language leaves alone."""
    return json.dumps(json.dumps(value))


def _stage(
    name: str, expressions: list[Object], template: str, *, kind: str = "Pod", delay: float = 0.0
) -> Object:
    spec: Object = {
        "resourceRef": {"apiGroup": "v1", "kind": kind},
        "selector": {
            "matchExpressions": [
                {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"},
                *expressions,
            ]
        },
        "next": {"statusTemplate": template},
    }
    if delay:
        spec["delay"] = {"durationMilliseconds": int(delay * 1000)}
    return {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage", "metadata": {"name": name}, "spec": spec}
