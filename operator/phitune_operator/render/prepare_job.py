"""The Job that puts model and data on the volume before the first gang, on the kind of node that it gets.

It alone gets the hub's token, out of the user's secret, and the way to the hub.
"""

from phitune_operator import names
from phitune_operator.kinds import JOB, Object
from phitune_operator.render.pod import container, pod_template
from phitune_operator.render.subject import Subject
from phitune_trainer import exit_codes

RETRIES = 3
"""Of the pod, after faults; the Job controller waits longer each time."""


def prepare_job(subject: Subject) -> Object:
    """Return the Job. A user error ends it at once, a disruption does not count as a try."""
    worker = container(
        subject,
        names.PREPARE_CONTAINER,
        "phitune_trainer.prepare",
        env=[*_tokens(subject), *_way_to_hub(subject)],
        resources={"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}},
    )
    labels = subject.labels(role=names.ROLE_PREPARE)
    template = pod_template(subject, worker, labels=labels, config=_config(), zones=subject.zones)
    template["metadata"].setdefault("annotations", {})[names.ANNOTATION_CONFIG] = subject.train.to_yaml()
    template["spec"]["restartPolicy"] = "Never"
    if subject.hub.ca_config_map:
        # Optional: a pod that waits for a volume says nothing, prepare names the file that is not there.
        source = {"name": subject.hub.ca_config_map, "optional": True}
        template["spec"]["volumes"].append({"name": "ca", "configMap": source})
        worker["volumeMounts"].append({"name": "ca", "mountPath": names.CA_PATH, "readOnly": True})
    metadata = subject.metadata(names.prepare_job(subject.name), makes_pods=True, role=names.ROLE_PREPARE)
    metadata["annotations"][names.ANNOTATION_PLACE] = subject.place
    return {
        "apiVersion": JOB.api_version,
        "kind": JOB.kind,
        "metadata": metadata,
        "spec": {
            "backoffLimit": RETRIES,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": names.PREPARE_CONTAINER,
                            "operator": "In",
                            "values": [exit_codes.USER_ERROR],
                        },
                    },
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                ]
            },
            "template": template,
        },
    }


def _config() -> Object:
    """The pod's own annotation as a file. The ConfigMap is made with the first gang, and never changes."""
    path = f"metadata.annotations['{names.ANNOTATION_CONFIG}']"
    return {"downwardAPI": {"items": [{"path": names.CONFIG_KEY, "fieldRef": {"fieldPath": path}}]}}


def _tokens(subject: Subject) -> list[Object]:
    model, data = subject.spec.model, subject.spec.data
    secrets = {
        names.ENV_HUB_TOKEN: model.token_secret if model else None,
        names.ENV_DATA_TOKEN: data.token_secret if data else None,
    }
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": names.SECRET_TOKEN_KEY}}}
        for name, secret in secrets.items()
        if secret is not None
    ]


def _way_to_hub(subject: Subject) -> list[Object]:
    """What the operator was told, unless the job's own variables say another way."""
    theirs = {variable.name for variable in subject.spec.env or []}
    hub = subject.hub
    # Two names of one thing, of which the client takes the first.
    has_own_ca = not theirs.isdisjoint({"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"})
    values = {
        "HF_ENDPOINT": hub.endpoint,
        "HTTPS_PROXY": hub.proxy,
        "NO_PROXY": hub.no_proxy,
        "SSL_CERT_FILE": f"{names.CA_PATH}/{names.CA_KEY}" if hub.ca_config_map and not has_own_ca else "",
    }
    return [{"name": name, "value": value} for name, value in values.items() if value and name not in theirs]
