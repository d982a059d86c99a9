"""All rows, in the order in which they are measured."""

from trainerbench import (
    data_check_rate,
    dataset_rss_growth,
    load_extra_gib,
    load_read_ratio,
    memory_model_worst,
    preprocess_speedup,
)
from trainerbench.row import Row

ROWS: tuple[Row, ...] = (
    preprocess_speedup.ROW,
    load_extra_gib.ROW,
    load_read_ratio.ROW,
    dataset_rss_growth.ROW,
    data_check_rate.ROW,
    memory_model_worst.ROW,
)
