"""Rights: what roles grant, and what an account has asked for by the API server's audit log."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.cluster import Object


@dataclass(frozen=True, order=True)
class Right:
    """One verb on one kind of object."""

    group: str
    """Empty for the core group."""
    resource: str
    """With the subresource, such as pods/log."""
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{'.' if self.group else ''}{self.group}"


def granted(roles: Iterable[Object]) -> set[Right]:
    """What Roles and ClusterRoles say together."""
    return {
        Right(group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def asked_for(audit_log: Path, account: str) -> set[Right]:
    """What the account has asked of the API server, whether it got it or not."""
    name = json.dumps(account)
    asked: set[Right] = set()
    with audit_log.open(encoding="utf-8") as lines:
        for line in lines:
            # Most lines are about nodes and controllers, and need not be parsed.
            if name in line and (right := _right(json.loads(line), account)) is not None:
                asked.add(right)
    return asked


def _right(event: Object, account: str) -> Right | None:
    about = event.get("objectRef")
    if event["user"]["username"] != account or about is None:
        return None  # without an object: the paths by which clients find out what there is
    parts = [about["resource"], about.get("subresource", "")]
    return Right(about.get("apiGroup", ""), "/".join(part for part in parts if part), event["verb"])
