"""All rows, in the order in which they are measured."""

from benchrows.row import Row
from trainerbench import (
    checkpoint_stall_share,
    cpu_speedup,
    data_check_rate,
    data_wait_share,
    dataset_rss_growth,
    flops_ratio,
    gpu,
    load_extra_gib,
    load_read_ratio,
    memory_model_worst,
    preprocess_speedup,
    telemetry_share,
    zero2_bytes_ratio,
)

ROWS: tuple[Row, ...] = (
    preprocess_speedup.ROW,
    load_extra_gib.ROW,
    load_read_ratio.ROW,
    dataset_rss_growth.ROW,
    data_check_rate.ROW,
    data_wait_share.ROW,
    telemetry_share.ROW,
    *flops_ratio.ROWS,
    *cpu_speedup.ROWS,
    zero2_bytes_ratio.ROW,
    memory_model_worst.ROW,
    checkpoint_stall_share.ROW,
    *gpu.ROWS,
)
