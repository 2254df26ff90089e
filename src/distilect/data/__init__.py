"""Data: tables of rows with identities, tokenised per model, drawn in batches."""

from __future__ import annotations

from distilect.data.batches import (
    EpochBatchSampler,
    Window,
    epoch_batches,
    scoring_batches,
    steps_per_epoch,
    token_budget_splits,
)
from distilect.data.columns import text_columns
from distilect.data.encoding import NOTABLE, Encoded, encode, pad_id
from distilect.data.loading import Data, load_data, load_table, open_texts, read_columns, read_rows, task_settings_of
from distilect.data.readers import open_source
from distilect.data.sentences import Sentences, open_sentences, read_sentences
from distilect.data.source import Rows, Source
from distilect.data.splits import fold_of, hold_out
from distilect.data.table import Table, row_identity, row_keys
from distilect.data.tag_columns import plain_texts
from distilect.data.token_loading import load_token_data, load_token_table
from distilect.data.token_rows import TokenReader
from distilect.data.tokens import Tokens, vocabulary_hash
from distilect.data.units import Units
from distilect.data.word_outputs import read_word_columns
from distilect.data.writers import check_suffix, table_writer, write_columns

__all__ = [
    "NOTABLE",
    "Data",
    "Encoded",
    "EpochBatchSampler",
    "Rows",
    "Sentences",
    "Source",
    "Table",
    "TokenReader",
    "Tokens",
    "Units",
    "Window",
    "check_suffix",
    "encode",
    "epoch_batches",
    "fold_of",
    "hold_out",
    "load_data",
    "load_table",
    "load_token_data",
    "load_token_table",
    "open_sentences",
    "open_source",
    "open_texts",
    "pad_id",
    "plain_texts",
    "read_columns",
    "read_rows",
    "read_sentences",
    "read_word_columns",
    "row_identity",
    "row_keys",
    "scoring_batches",
    "steps_per_epoch",
    "table_writer",
    "task_settings_of",
    "text_columns",
    "token_budget_splits",
    "vocabulary_hash",
    "write_columns",
]
