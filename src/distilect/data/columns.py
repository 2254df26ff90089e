"""Which columns hold the texts and the label: those that the user names, otherwise those with a usual name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from distilect.data.decoding import suffix_of
from distilect.data.source import Rows, Source, check_columns, listed
from distilect.errors import DataError

# Usual names in lower case, in order of preference.
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("sentence_a", "sentence_b"),
    ("#1 string", "#2 string"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("question", "answer"),
    ("query", "passage"),
    ("query", "document"),
)
SINGLES = ["text", "sentence", "content", "review", "comment", "tweet", "utterance", "question", "document", "body"]
ROW_NUMBERS = ("id", "idx", "index", "row", "guid")
LABELS = [
    "label",
    "labels",
    "score",
    "class",
    "target",
    "quality",
    "gold_label",
    "is_duplicate",
    "similarity",
    "category",
    "sentiment",
    "intent",
    "stars",
    "rating",
    "y",
]
USUAL = {*(name for pair in PAIRS for name in pair), *SINGLES, *LABELS}


@dataclass(frozen=True)
class Columns:
    """Names of one or two text columns, and of the label column or of one column per label; `inferred`: some were not given."""

    texts: tuple[str, ...]
    label: str | tuple[str, ...] | None
    inferred: bool = False

    def __str__(self) -> str:
        label = f", label {listed(self.labels, 8)}" if self.label else ""
        return f"text {' + '.join(self.texts)}{label}{' (inferred)' if self.inferred else ''}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the label columns."""
        return (self.label,) if isinstance(self.label, str) else self.label or ()

    @property
    def names(self) -> list[str]:
        """Of the texts and of the labels where there are some."""
        return [*self.texts, *self.labels]


def choose_columns(
    source: Source,
    text: str | Sequence[str] | None,
    label: str | Sequence[str] | None,
    *,
    labelled: bool = True,
    texts_alone: bool = False,
) -> Columns:
    """The columns to read from `source`.

    Args:
        text, label: as the user gave them; None: inferred from usual names. Several label columns: one per label.
        labelled: whether a label column is needed; without it `label` stays None.
        texts_alone: a table of texts (and row numbers) alone is taken as one without labels.

    Raises:
        DataError: a column is missing or cannot be inferred; lists the columns and the setting to give.
    """
    given = (text,) if isinstance(text, str) else tuple(text or ())
    if text is not None and (len(given) not in (1, 2) or len(set(given)) != len(given)):
        raise DataError(f"data.text: expected one or two different columns, got {listed(given) or 'none'}")
    wanted = (label,) if isinstance(label, str) else tuple(label or ())
    if len(set(wanted)) != len(wanted):
        raise DataError(f"data.label: expected different columns, got {listed(wanted)}")
    check_columns([*given, *(wanted if labelled else ())], source.columns, source.label)
    found = wanted or _infer_label(source.columns, given)
    if texts_alone and not found and (only := _texts_alone(source, given)):
        return Columns(only, None, inferred=not given)
    if labelled and not found and len(source.columns) == 1 and {".csv", ".tsv", ".txt"} & _suffixes(source):
        raise DataError(
            f"{source.label} has one column, {source.columns[0]!r}, expected texts and labels. If these are several columns, "
            "set data.delimiter to the character between them"
        )
    texts = given or choose_text_columns(source, found)
    if not labelled:
        return Columns(texts, None, inferred=not given)
    if not found:
        raise DataError(
            f"{source.label}: no column has a usual name for labels; its columns: {listed(source.columns)}. "
            "Set data.label to one of them"
        )
    if both := [name for name in found if name in texts]:
        raise DataError(
            f"{source.label}: column {both[0]!r} cannot be both text and label: set data.text and data.label"
        )
    return Columns(texts, found[0] if len(found) == 1 else found, inferred=not given or not wanted)


def _texts_alone(source: Source, given: tuple[str, ...]) -> tuple[str, ...]:
    """The text columns of a table that holds nothing else but row numbers; () of other tables."""
    rest = [name for name in source.columns if name.lower() not in ROW_NUMBERS]
    if not given and len(rest) == 1 and rest[0].lower() not in SINGLES:
        return ()  # several columns that were read as one, perhaps
    texts = given or (choose_text_columns(source, [n for n in source.columns if n not in rest]) if rest else ())
    return texts if set(rest) <= set(texts) else ()


def choose_text_columns(source: Source, others: Sequence[str] = ()) -> tuple[str, ...]:
    """One or two text columns by their usual names, otherwise the only column, except for a file of plain lines (.txt);
    columns in `others` are ignored.

    Raises:
        DataError: lists the columns and the setting to give.
    """
    columns = [name for name in source.columns if name not in others]
    lower = {name.lower(): name for name in reversed(columns)}
    for usual in (*PAIRS, *((name,) for name in SINGLES)):
        if set(usual) <= set(lower):
            return tuple(lower[name] for name in usual)
    if len(columns) == 1:
        if len(source.columns) == 1 and ".txt" in _suffixes(source):
            raise DataError(
                f"{source.label}: its first line, {columns[0][:40]!r}, stands where the name of the column is expected. "
                "Put a line `text` above the texts; or if it is the name, set data.text to it"
            )
        return (columns[0],)
    raise DataError(
        f"{source.label}: no column has a usual name for texts; its columns: {listed(source.columns)}. "
        "Set data.text to one or two of them"
    )


def text_columns(rows: Rows, names: Sequence[str]) -> list[pa.Array]:
    """The text columns as strings, checked.

    Raises:
        DataError: a column does not hold texts, or a row has no text (a pair may have one blank text).
    """
    columns = [_strings(rows, name) for name in names]
    empties = [pc.equal(pc.utf8_trim_whitespace(column), "") for column in columns]
    blank = empties[0] if len(empties) == 1 else pc.and_(empties[0], empties[1])
    row = pc.index(blank, True).as_py()
    if row >= 0:
        raise DataError(f"{rows.where(row)}: no text in column {' + '.join(names)}. Fill it in or remove the row")
    return columns


def is_string(kind: pa.DataType) -> bool:
    """Whether this is one of Arrow's three string types."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view())


def _strings(rows: Rows, name: str) -> pa.Array:
    column = rows.table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (is_string(column.type) or pa.types.is_null(column.type)):
        raise DataError(
            f"{rows.label}: column {name!r} holds {column.type}, expected texts. Set data.text to text columns"
        )
    column = column.cast(pa.large_string()).combine_chunks()
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise DataError(f"{rows.where(row)}: no text in column {name!r}. Fill it in or remove the row")
    return column


def _suffixes(source: Source) -> set[str]:
    return {suffix_of(file) for file in source.files}


def _infer_label(columns: Sequence[str], texts: Sequence[str]) -> tuple[str, ...]:
    lower = {name.lower(): name for name in reversed(columns) if name not in texts}
    return tuple(lower[name] for name in LABELS if name in lower)[:1]
