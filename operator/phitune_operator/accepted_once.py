"""A FineTuneJob that was accepted once, as it is stored: bounds that came later are not for what has begun.

Read like any other, it would be refused, and nobody would follow its pods to their end.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args

from pydantic import ValidationError

from phitune_operator.api import FineTuneJob
from phitune_operator.fields import BYTES, CPU, DURATION, Group, whole_number_as_text
from phitune_operator.schema import object_schema, with_defaults

_MAY_COME_LATER: Final = frozenset(
    {
        "extra_forbidden",
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "literal_error",
        "string_pattern_mismatch",
        "string_too_long",
        "string_too_short",
        "too_long",
        "too_short",
    }
)
"""What a later version of the same API may refuse; of another type no value of a field ever was."""


def as_accepted(document: Mapping[str, Any]) -> FineTuneJob | None:
    """The document typed, and neither bounds nor rules judged; None if it never can have been accepted.

    Fields that are not known any more are left out, as the API server leaves them out.
    """
    given = with_defaults(object_schema(), {key: value for key, value in document.items() if key != "status"})
    try:
        return FineTuneJob.model_validate(given, by_alias=True, by_name=False)
    except ValidationError as error:
        if all(_may_have_come_later(detail) for detail in error.errors(include_url=False)):
            job: FineTuneJob = _as(FineTuneJob, given)
            return job
        return None


def _may_have_come_later(detail: Mapping[str, Any]) -> bool:
    # What is calculated with has to be a number; a time that cannot be read would be one of no seconds.
    is_no_number = (detail.get("ctx") or {}).get("pattern") in (CPU, BYTES, DURATION)
    return detail["type"] in _MAY_COME_LATER and not is_no_number


def _as(annotation: Any, value: Any) -> Any:
    types = list(_types_in(annotation))
    group = next((one for one in types if isinstance(one, type) and issubclass(one, Group)), None)
    if group is None:
        return whole_number_as_text(value) if str in types else value
    if isinstance(value, list):
        return [_as(group, entry) for entry in value]
    return group.model_construct(
        **{
            name: _as(field.annotation, value[field.alias])
            for name, field in group.model_fields.items()
            if field.alias in value
        }
    )


def _types_in(annotation: Any) -> Iterator[Any]:
    """What a union, a list or the like is made of."""
    parts = get_args(annotation)
    if not parts:
        yield annotation
    for part in parts:
        yield from _types_in(part)
