"""A table enlarged by changed copies of its rows.

Own code, as no maintained library fits: nlpaug has had no release since 2022 and no seed of its own, TextAttack brings flair and a
Java grammar checker, textaugment brings gensim and an online translator; all of them change one text at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distilect.augment.masked import MaskedFiller
from distilect.augment.neighbours import Neighbours
from distilect.augment.pieces import Ints, Pieces, Vocabulary, choose_words, random_state, row_draws
from distilect.data import Table, check_suffix, read_rows, row_keys, write_columns
from distilect.data.table import WORD_END, identities
from distilect.errors import DataError, did_you_mean
from distilect.models.row_index import RowIndex, unique_rows
from distilect.progress import bar

METHODS = {"neighbours": Neighbours, "mlm": MaskedFiller}


@dataclass(frozen=True)
class Augmented:
    """New rows.

    Attributes:
        table: without labels, unless `keep_labels`.
        source: int64 [n], the row that each was made of.
        dropped: copies that were left out because they were made twice or exist already.
    """

    table: Table
    source: Ints
    dropped: int


def augment(
    table: Table,
    times: int = 20,
    *,
    seed: int = 0,
    method: str = "neighbours",
    model: str | None = None,
    keep_labels: bool = False,
    exclude: Sequence[Table] = (),
    stays: NDArray[np.bool_] | None = None,
) -> Augmented:
    """Make `times` changed copies of every row. The rows themselves are not among them.

    Each copy is a function of (seed, its number, the row's texts): it depends on neither the order of the rows nor the other
    rows. Of two texts one or both are changed, with a third of the probability each. Each word of a word table stays one word.

    Args:
        method: `neighbours`: 40 % of the words are replaced by one of the 15 nearest words of the model's token embeddings;
            `mlm`: 15 % are filled in by the model, which needs a masked-LM head.
        model: the checkpoint for this.
        keep_labels: a copy keeps its row's label; by default it has none, and the teachers label it.
        exclude: tables whose rows must not be made, such as the validation split.
        stays: bool [U], words of a word table that are not replaced, such as those of entities; a copy depends on them too.

    Raises:
        DataError: an unknown method, a model that is missing or does not fit, or no copy is new.
    """
    if times < 1:
        raise DataError(f"times is {times}, expected 1 or more")
    if method not in METHODS:
        raise DataError(f"unknown method {method!r}; known: {', '.join(METHODS)}.{did_you_mean(method, METHODS)}")
    if model is None:
        raise DataError(f"method {method} needs a model: a checkpoint, such as the student's own backbone")
    vocabulary, keys = Vocabulary(), row_keys(table.ids)
    texts = [column.to_pylist() for column in table.texts]
    columns = [Pieces.cut(column, vocabulary, table.of_words) for column in texts]
    fixed = None
    if table.of_words:
        texts = [[text.replace(WORD_END, " ") for text in column] for column in texts]  # as models read them
        fixed = _on_words(columns[0], vocabulary, stays)
    replacer = METHODS[method](str(model), vocabulary)
    copies: list[list[pa.Array]] = []
    with bar() as progress:
        task = progress.add_task("augmenting", total=times * len(texts) * len(table))
        for number in range(times):
            changed = []
            for column, pieces in enumerate(columns):
                chosen = choose_words(
                    pieces, replacer.able, random_state(keys, seed, number, column), replacer.share, fixed
                )
                ids = replacer.replace(texts[column], pieces, chosen, lambda rows: progress.advance(task, rows))
                changed.append(pieces.join(ids, vocabulary))
            if len(changed) == 2:  # a third each: the first text changed, the second, both
                draw = row_draws(random_state(keys, seed, number, 2))
                changed[0] = pc.if_else(pa.array(draw >= 2 / 3), table.texts[0], changed[0])
                changed[1] = pc.if_else(pa.array(draw < 1 / 3), table.texts[1], changed[1])
            copies.append(changed)
    source = np.tile(np.arange(len(table)), times)
    made = _rows_of(table, [pa.concat_arrays(list(c)) for c in zip(*copies, strict=True)], source)
    new = _new_rows(made, [table, *exclude])
    if not len(new):
        raise DataError(f"none of {len(made):,} changed rows is new: the texts have no word that {method} can replace")
    kept = made.take(new)
    return Augmented(kept if keep_labels else kept.without_labels(), source[new], len(made) - len(new))


def augment_file(
    train: str,
    output: str | Path,
    times: int = 20,
    *,
    seed: int = 0,
    method: str = "neighbours",
    model: str | None = None,
    text: Sequence[str] | None = None,
    label: str | None = None,
    keep_labels: bool = False,
    data_dir: str | Path = ".",
) -> str:
    """Write changed copies of a table's rows to another file, for `data.extra`; returns a line for the user.

    Args:
        train: as `data.train`, or a GLUE folder.
        output: .csv, .tsv, .jsonl or .parquet, with the columns of `train`; written whole or not at all. Lists of words fit the last two.
        label: its column, with `keep_labels`; inferred from its name. Words that are tagged as entities stay.
    """
    output = Path(output)
    check_suffix(output)
    columns, table, labels, stays = read_rows(
        train, text=text, label=label, labelled=keep_labels, data_dir=Path(data_dir)
    )
    if table.of_words and output.suffix in (".csv", ".tsv"):
        raise DataError(f"{output}: the rows are lists of words: expected a file that ends in .jsonl or .parquet")
    made = augment(table, times, seed=seed, method=method, model=model, stays=stays)
    out: dict[str, pa.Array] = dict(zip(columns, made.table.texts, strict=False))
    if table.of_words:
        out[columns[0]] = pc.split_pattern(made.table.texts[0], WORD_END)
    if labels is not None:
        out[columns[-1]] = labels.take(pa.array(made.source))
    write_columns(output, out)
    return f"{len(made.table):,} rows made of {len(table):,} ({made.dropped:,} left out, as they existed already) → {output}"


def _on_words(pieces: Pieces, vocabulary: Vocabulary, stays: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """bool [T]: the pieces that stay, by the words that do."""
    if stays is None:
        return None
    fixed = np.ones(len(pieces.ids), dtype=bool)
    fixed[pieces.ids != vocabulary.add(WORD_END)] = stays
    return fixed


def _rows_of(table: Table, texts: list[pa.Array], source: Ints) -> Table:
    """Changed copies with the labels of their rows."""
    if table.units is None:
        return Table.from_columns(texts, table.labels[source])
    return Table(
        tuple(texts), table.labels[table.unit_index(source)], identities(texts), units=table.units.take(source)
    )


def _new_rows(made: Table, known: Sequence[Table]) -> Ints:
    """Row numbers, ascending: the first of each different row that no known table has and that is not blank."""
    first = np.sort(unique_rows(made.ids))
    for table in known:
        first = first[RowIndex.of(table.ids).find(made.ids[first]) < 0]
    filled = np.zeros(len(made), dtype=bool)
    for column in made.texts:
        filled |= np.asarray(pc.not_equal(column, ""))
    return first[filled[first]]
