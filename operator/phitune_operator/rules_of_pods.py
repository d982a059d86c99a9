"""Rules of the fields that pods are made of: labels, affinity, tolerations, environment."""

import re
from typing import Final

from phitune_operator import names
from phitune_operator.rule import Node, Rule, get, keys_of_labels

_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"
_WHOLE_NUMBER: Final = "^-?[0-9]{1,18}$"


def _filled(field: str) -> str:
    """In CEL: the list has something in it. Templates write empty ones, which Kubernetes lets them do."""
    return f"(has(self.{field}) && self.{field}.size() > 0)"


def _affinity_rules(at: str) -> list[Rule]:
    nodes = f"{at}.nodeAffinity"
    term = f"{nodes}.{_REQUIRED}.nodeSelectorTerms[*]"
    selectors = [
        f"{at}.{kind}.{terms}.{selector}"
        for kind in ("podAffinity", "podAntiAffinity")
        for terms in (f"{_REQUIRED}[*]", f"{_PREFERRED}[*].podAffinityTerm")
        for selector in ("labelSelector", "namespaceSelector")
    ]
    return [
        Rule(
            at=term,
            field="matchExpressions",
            cel=f"{_filled('matchExpressions')} || {_filled('matchFields')}",
            holds=lambda term: bool(term.get("matchExpressions") or term.get("matchFields")),
            message="this or matchFields is needed: an empty term matches no node",
        ),
        _values_of_a_node(f"{term}.matchExpressions[*]"),
        _values_of_a_node(f"{nodes}.{_PREFERRED}[*].preference.matchExpressions[*]"),
        *(keys_of_labels("matchLabels", at=selector) for selector in selectors),
        *(_values_of_a_label(f"{selector}.matchExpressions[*]") for selector in selectors),
    ]


def _values_of_a_label(at: str) -> Rule:
    return Rule(
        at=at,
        field="values",
        cel=f"{_filled('values')} == (self.operator in ['In', 'NotIn'])",
        holds=lambda one: bool(one.get("values")) == (one["operator"] in ("In", "NotIn")),
        message="needed with In and NotIn, and not with Exists and DoesNotExist",
    )


def _values_of_a_node(at: str) -> Rule:
    def holds(one: Node) -> bool:
        if one["operator"] in ("Gt", "Lt"):
            values = one.get("values") or []
            # A value that is wrong in itself is here, too: what is said of it stands beside this.
            return len(values) == 1 and re.fullmatch(_WHOLE_NUMBER, str(values[0])) is not None
        return bool(one.get("values")) == (one["operator"] in ("In", "NotIn"))

    return Rule(
        at=at,
        field="values",
        cel="self.operator in ['Gt', 'Lt'] ? has(self.values) && self.values.size() == 1 && "
        f"self.values[0].matches('{_WHOLE_NUMBER}') : "
        f"{_filled('values')} == (self.operator in ['In', 'NotIn'])",
        holds=holds,
        message="needed with In and NotIn, one whole number with Gt and Lt, and not with Exists and "
        "DoesNotExist",
    )


def _toleration_rules(at: str) -> list[Rule]:
    return [
        Rule(
            at=at,
            field="value",
            cel="self.operator == 'Equal' || !has(self.value)",
            holds=lambda node: node["operator"] == "Equal" or "value" not in node,
            message="not with operator Exists, which matches every value",
        ),
        Rule(
            at=at,
            field="key",
            cel="self.operator == 'Exists' || has(self.key)",
            holds=lambda node: node["operator"] == "Exists" or "key" in node,
            message="needed with operator Equal; operator Exists alone tolerates every taint",
        ),
        Rule(
            at=at,
            field="tolerationSeconds",
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            holds=lambda node: "tolerationSeconds" not in node or node.get("effect") == "NoExecute",
            message="only with effect NoExecute",
        ),
    ]


_OUR_LABELS: Final = (
    f"{names.GROUP}/",
    f"{names.TRAINING_OPERATOR_GROUP}/",
    "batch.kubernetes.io/",
    "jobset.sigs.k8s.io/",
    "kueue.x-k8s.io/",
    "job-name",
    "controller-uid",
    names.LABEL_NAME,
    names.LABEL_MANAGED_BY,
)
"""Beginnings of the keys by which operators find their pods."""
_OURS_CEL: Final = " || ".join(f"key.startsWith('{prefix}')" for prefix in _OUR_LABELS)

_MOST_ENV: Final = 64 * 1024
_ENV_SIZE: Final = Rule(
    at="spec",
    field="env",
    cel=f"!has(self.env) || self.env.map(variable, variable.value.size()).sum() <= {_MOST_ENV}",
    # An entry that is wrong in itself is here, too: what is said of it stands beside this.
    holds=lambda spec: sum(len(str(get(one, "value"))) for one in get(spec, "env") or []) <= _MOST_ENV,
    message=f"at most {_MOST_ENV:,} characters of values together, which every pod repeats; put "
    "files on the volume",
)

_CONFINEMENT: Final = (
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
)
"""Beginnings of the keys of annotations by which kubelets loosen, or tighten, what confines a container."""
_CONFINEMENT_CEL: Final = " || ".join(f"key.startsWith('{prefix}')" for prefix in _CONFINEMENT)

POD_RULES: Final[list[Rule]] = [
    keys_of_labels("resources.nodeSelector"),
    keys_of_labels("podTemplate.labels"),
    keys_of_labels("podTemplate.annotations"),
    Rule(
        at="spec",
        field="podTemplate.annotations",
        cel="!has(self.podTemplate) || !has(self.podTemplate.annotations) || "
        f"!self.podTemplate.annotations.exists(key, {_CONFINEMENT_CEL})",
        holds=lambda spec: (
            not any(key.startswith(_CONFINEMENT) for key in get(spec, "podTemplate.annotations") or {})
        ),
        message="what confines a container is not the job's to change",
    ),
    Rule(
        at="spec",
        field="podTemplate.labels",
        cel="!has(self.podTemplate) || !has(self.podTemplate.labels) || "
        f"!self.podTemplate.labels.exists(key, {_OURS_CEL})",
        holds=lambda spec: (
            not any(key.startswith(_OUR_LABELS) for key in get(spec, "podTemplate.labels") or {})
        ),
        message=f"labels that begin with {', '.join(_OUR_LABELS)} are those of operators and controllers",
    ),
    *_affinity_rules("spec.podTemplate.affinity"),
    *_toleration_rules("spec.resources.tolerations[*]"),
    *_toleration_rules("spec.podTemplate.tolerations[*]"),
    _ENV_SIZE,
    Rule(
        at="spec.env[*]",
        field="name",
        cel="!self.name.startsWith('PET_') && !self.name.startsWith('PHITUNE_')",
        holds=lambda variable: not variable["name"].startswith(("PET_", "PHITUNE_")),
        message="names beginning with PET_ or PHITUNE_ are the operator's",
    ),
    Rule(
        at="spec.env[*]",
        field="name",
        cel=f"!(self.name in [{', '.join(repr(name) for name in names.HUB_TOKEN_VARIABLES)}])",
        holds=lambda variable: variable["name"] not in names.HUB_TOKEN_VARIABLES,
        message="every pod would hold the token, and everyone who reads the job see it; put it into a secret "
        f"under the key {names.SECRET_TOKEN_KEY}, and name that in spec.model.tokenSecret or "
        "spec.data.tokenSecret",
    ),
]
"""Everything that must hold between those fields, in their order."""
