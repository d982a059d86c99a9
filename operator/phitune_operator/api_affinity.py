"""Affinity as a FineTuneJob may ask for it: a pod's, with every field typed and bounded.

Without matchLabelKeys and mismatchLabelKeys: whoever writes a job knows its labels, and can write a selector.
"""

from typing import Annotated, Literal

from pydantic import Field

from phitune_operator.fields import DNS_LABEL, Group, LabelKey, Labels, LabelValue, ObjectName

Namespace = Annotated[str, Field(max_length=63, pattern=DNS_LABEL)]


class NodeRequirement(Group):
    """What must be true of one label of a node."""

    key: LabelKey
    """Key of the label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """How the label is compared; Gt and Lt compare whole numbers."""
    values: list[LabelValue] | None = Field(default=None, max_length=256)
    """Values that it is compared with. Default: none, with Exists and DoesNotExist."""


class FieldRequirement(Group):
    """What must be true of a node's name."""

    key: Literal["metadata.name"]
    """Field of the node: always metadata.name."""
    operator: Literal["In", "NotIn"]
    """How the name is compared."""
    values: list[ObjectName] = Field(min_length=1, max_length=1)
    """The one name that it is compared with."""


class NodeSelectorTerm(Group):
    """What must all be true of a node."""

    match_expressions: list[NodeRequirement] | None = Field(default=None, max_length=32)
    """About its labels. Default: none."""
    match_fields: list[FieldRequirement] | None = Field(default=None, max_length=32)
    """About its name. Default: none."""


class NodeSelector(Group):
    """Which nodes will do."""

    node_selector_terms: list[NodeSelectorTerm] = Field(min_length=1, max_length=32)
    """Terms of which a node must match one."""


class PreferredNodes(Group):
    """Nodes that are better than others."""

    weight: int = Field(ge=1, le=100)
    """How much better, from 1 to 100."""
    preference: NodeSelectorTerm
    """What is true of them; an empty one is of no account."""


class NodeAffinity(Group):
    """To which nodes pods go."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    """What a node must match, beside what the operator asks for. Default: the operator's."""
    preferred_during_scheduling_ignored_during_execution: list[PreferredNodes] | None = Field(
        default=None, max_length=32
    )
    """What nodes are better. Default: none."""


class LabelRequirement(Group):
    """What must be true of one label."""

    key: LabelKey
    """Key of the label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How the label is compared."""
    values: list[LabelValue] | None = Field(default=None, max_length=64)
    """Values that it is compared with. Default: none, with Exists and DoesNotExist."""


class LabelSelector(Group):
    """What must all be true of labels; an empty one is true of all."""

    match_labels: Annotated[Labels | None, Field(max_length=16)] = None
    """Labels and their values. Default: none."""
    match_expressions: list[LabelRequirement] | None = Field(default=None, max_length=16)
    """More about labels. Default: none."""


class PodAffinityTerm(Group):
    """Certain pods, and how near is near."""

    label_selector: LabelSelector | None = None
    """Labels of those pods. Default: none, and then no pod is meant."""
    topology_key: LabelKey
    """Label of nodes: those with the same value of it are one place."""
    namespaces: list[Namespace] | None = Field(default=None, max_length=16)
    """Namespaces of those pods, beside those of namespaceSelector. Default: the job's, without either."""
    namespace_selector: LabelSelector | None = None
    """Labels of the namespaces of those pods. Default: none."""


class WeightedPodAffinityTerm(Group):
    """A wish about certain pods."""

    weight: int = Field(ge=1, le=100)
    """How much better such a place is, from 1 to 100."""
    pod_affinity_term: PodAffinityTerm
    """The pods, and how near is near."""


class PodAffinity(Group):
    """Beside which pods, or away from them, pods go."""

    required_during_scheduling_ignored_during_execution: list[PodAffinityTerm] | None = Field(
        default=None, max_length=16
    )
    """What must hold, beside what the operator asks for. Default: the operator's."""
    preferred_during_scheduling_ignored_during_execution: list[WeightedPodAffinityTerm] | None = Field(
        default=None, max_length=16
    )
    """What is better. Default: none."""


class Affinity(Group):
    """Where pods may and should run, beside what the operator asks for."""

    node_affinity: NodeAffinity | None = None
    """To nodes; also of the pod that prepares model and data. Default: the operator's."""
    pod_affinity: PodAffinity | None = None
    """To nodes where certain pods run; of the training pods. Default: none."""
    pod_anti_affinity: PodAffinity | None = None
    """Away from nodes where certain pods run; of the training pods. Default: the operator's."""
