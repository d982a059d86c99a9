"""What came of each fault: the lines of build/chaos.json, and the table of docs/reliability.md.

`python -m chaos.rows REPORT PAGE` renews the table in the page; `tests` and `hack/cluster` are on PYTHONPATH.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.oracle import Verdict

BEGIN, END = "<!-- chaos: begin -->", "<!-- chaos: end -->"
COLUMNS = ("fault", "tries", "lost", "doubled", "orphans", "stuck", "passed")


@dataclass(frozen=True)
class Row:
    """One fault."""

    fault: str
    tries: int
    """Jobs that it struck."""
    lost: int
    """Jobs that did not come to their end, or lost more training than one save interval."""
    doubled: int
    """Jobs of which two gangs lived at once, or an attempt had two."""
    orphans: int
    """Objects left over."""
    stuck: int
    """Jobs in which nothing moved for too long."""
    passed: bool
    seconds: float
    """How long it took, beside others where they run side by side."""
    operator: str
    """Image of the operator that was tried, whose tag is that of its contents."""
    figures: Mapping[str, float]
    """What was measured on the way, in seconds."""

    @classmethod
    def of(
        cls,
        fault: str,
        verdicts: Sequence[Verdict],
        *,
        struck: bool = True,
        seconds: float = 0.0,
        operator: str = "",
        figures: Mapping[str, float] | None = None,
    ) -> Row:
        """Count; `struck` says that the fault could be made, and did what it says."""
        return cls(
            fault=fault,
            tries=len(verdicts),
            lost=sum(bool(verdict.lost) for verdict in verdicts),
            doubled=sum(bool(verdict.doubled) for verdict in verdicts),
            orphans=sum(len(verdict.orphans) for verdict in verdicts),
            stuck=sum(bool(verdict.stuck) for verdict in verdicts),
            passed=struck and bool(verdicts) and not any(verdict.complaints for verdict in verdicts),
            seconds=round(seconds, 1),
            operator=operator,
            figures={name: round(value, 1) for name, value in (figures or {}).items()},
        )


def write(rows: Iterable[Row], path: Path) -> None:
    """Write the report, over what is in it of the same faults: it may come in parts."""
    known = {row.fault: row for row in read(path)} if path.exists() else {}
    known |= {row.fault: row for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in known.values()], indent=2) + "\n")


def read(path: Path) -> list[Row]:
    """Read a report."""
    return [Row(**row) for row in json.loads(path.read_text())]


def table(rows: Iterable[Row], faults: Iterable[str]) -> str:
    """The table of all faults; one that has not been tried says so."""
    known = {row.fault: row for row in rows}
    lines = [_cells(known[fault]) if fault in known else (fault, "not yet run") for fault in faults]
    head = [COLUMNS, ("---",) * len(COLUMNS)]
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in [*head, *lines])


def _cells(row: Row) -> tuple[object, ...]:
    passed = "yes" if row.passed else "**no**"
    return row.fault, row.tries, row.lost, row.doubled, row.orphans, row.stuck, passed


def renewed(page: str, text: str) -> str:
    """The page with another table."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{text}{END}{after}"


def main() -> None:
    """Renew the table."""
    from chaos.catalogue import FAULTS

    report, page = map(Path, sys.argv[1:])
    page.write_text(renewed(page.read_text(), table(read(report), FAULTS)))


if __name__ == "__main__":
    main()
