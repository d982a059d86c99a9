"""The kinds of value that the API's fields hold: patterns, bounds, and what each is called in words.

Patterns are in the common part of RE2 (the API server) and Rust's regex (pydantic): no look-around, and `$`
is the end of the text. Lengths and counts are bounded everywhere, so that the cost of the CEL rules is too.
"""

import re
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from phitune_operator.names import JOB_NAME_PATTERN
from phitune_trainer.problems import HUB_NAME, PATTERNS, RELATIVE_PATH

_POSITIVE = r"([0-9]*[1-9][0-9]*(\.[0-9]*)?|[0-9]*\.[0-9]*[1-9][0-9]*)"
CPU: Final = rf"^{_POSITIVE}m?$"
BYTES: Final = rf"^{_POSITIVE}(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][0-9]{{1,2}})?$"
DURATION: Final = r"^([0-9]{1,6}(\.[0-9]{1,3})?h)?([0-9]{1,6}(\.[0-9]{1,3})?m)?([0-9]{1,6}(\.[0-9]{1,3})?s)?$"
DNS_LABEL: Final = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
LABEL_VALUE: Final = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
LABEL_KEY: Final = (
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
    r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
)
IMAGE: Final = r"^[A-Za-z0-9][-A-Za-z0-9._:/@]*$"
ENV_NAME: Final = "^[A-Za-z_][A-Za-z0-9_]*$"
ENV_VALUE: Final = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f]*$"

IN_WORDS: Final = {
    **PATTERNS,
    CPU: 'a positive number of CPUs such as 4, "500m" or "1.5"',
    BYTES: 'a positive number of bytes such as "16Gi" or "500M"',
    DURATION: 'a duration such as "90s", "30m" or "1h30m"',
    DNS_LABEL: "lower-case letters, digits and hyphens, beginning and ending with a letter or digit",
    DNS_SUBDOMAIN: "lower-case letters, digits, hyphens and dots, as the name of a Kubernetes object",
    LABEL_VALUE: "letters, digits, hyphens, underscores and dots, as the value of a label",
    LABEL_KEY: "the key of a label, such as example.com/pool",
    IMAGE: "the reference of an image, such as registry.example.com/trainer:1.0",
    JOB_NAME_PATTERN: "lower-case letters, digits and hyphens, first a letter, last no hyphen",
    ENV_NAME: "letters, digits and underscores, not beginning with a digit",
    ENV_VALUE: "text without control characters",
}
"""What a pattern asks for, as the messages and the reference say it."""

INT_OR_STRING: Final = "x-kubernetes-int-or-string"
LIST_TYPE: Final = "x-kubernetes-list-type"
LIST_MAP_KEYS: Final = "x-kubernetes-list-map-keys"


def whole_number_as_text(value: object) -> object:
    """A quantity may be written as a number: `cpu: 4`."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Cpu = Annotated[
    str,
    Field(max_length=20, pattern=CPU, json_schema_extra={INT_OR_STRING: True, "minimum": 1}),
    BeforeValidator(whole_number_as_text),
]
Bytes = Annotated[
    str,
    Field(max_length=20, pattern=BYTES, json_schema_extra={INT_OR_STRING: True, "minimum": 1}),
    BeforeValidator(whole_number_as_text),
]
Duration = Annotated[str, Field(min_length=2, max_length=36, pattern=DURATION)]
RelativePath = Annotated[str, Field(max_length=512, pattern=RELATIVE_PATH)]
HubName = Annotated[str, Field(max_length=256, pattern=HUB_NAME)]
ObjectName = Annotated[str, Field(max_length=253, pattern=DNS_SUBDOMAIN)]
LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE)]
LabelKey = Annotated[str, Field(max_length=317, pattern=LABEL_KEY)]
Image = Annotated[str, Field(max_length=512, pattern=IMAGE)]
AnnotationValue = Annotated[str, Field(max_length=1024)]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=64)]


_UNITS: Final = {
    suffix: Decimal(factor)
    for suffix, factor in {
        "": 1,
        "m": "0.001",
        **{unit: 1000**power for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
        **{unit: 1024**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
    }.items()
}


def quantity(value: str | int) -> Decimal:
    """Value of a Cpu or Bytes field: "500m" is 0.5, "1Gi" is 1073741824."""
    text = str(value)
    number = text.rstrip("kKMGTPEim")
    return Decimal(number) * _UNITS[text[len(number) :]]


def seconds(duration: str) -> float:
    """Length of a Duration field: "1h30m" is 5400."""
    parts = re.findall(r"([0-9.]+)([hms])", duration)
    return sum(float(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)


def keyed(key: str) -> dict[str, Any]:
    """Marks a list whose entries are told apart by one field, which the API server keeps unique."""
    return {LIST_TYPE: "map", LIST_MAP_KEYS: [key]}


class Group(BaseModel):
    """Fields that belong together: frozen, none unknown, none converted; camelCase in the API.

    The docstring under a field is its description in the CRD.
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
        regex_engine="rust-regex",
    )
