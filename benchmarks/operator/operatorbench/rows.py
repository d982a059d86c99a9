"""All rows, in the order in which they are measured."""

from benchrows.row import Row
from operatorbench import applied, held, restarted, running

ROWS: tuple[Row, ...] = (*applied.ROWS, *running.ROWS, *restarted.ROWS, *held.ROWS)
