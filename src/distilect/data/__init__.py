"""Where rows come from: tables with identities, tokenised per model, drawn in batches."""

from __future__ import annotations

from distilect.data.batches import (
    EpochBatchSampler,
    epoch_batches,
    scoring_batches,
    steps_per_epoch,
    token_budget_splits,
)
from distilect.data.encoding import Encoded, encode, pad_id
from distilect.data.loading import Data, load_data, load_table, read_columns
from distilect.data.readers import open_source
from distilect.data.source import Rows, Source
from distilect.data.splits import hold_out
from distilect.data.table import Table, row_identity, row_keys

__all__ = [
    "Data",
    "Encoded",
    "EpochBatchSampler",
    "Rows",
    "Source",
    "Table",
    "encode",
    "epoch_batches",
    "hold_out",
    "load_data",
    "load_table",
    "open_source",
    "pad_id",
    "read_columns",
    "row_identity",
    "row_keys",
    "scoring_batches",
    "steps_per_epoch",
    "token_budget_splits",
]
