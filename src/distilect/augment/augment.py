"""A table enlarged by changed copies of its rows.

Own code, as no well-kept library fits: nlpaug has had no release since 2022 and no seed of its own, TextAttack brings flair and a
Java grammar checker, textaugment gensim and an online translator; all of them change one text at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distilect.augment import methods
from distilect.augment.lexicon import Lexicon, load_lexicon, stand_ins
from distilect.augment.masked import MaskedFiller
from distilect.augment.pieces import Draws, Ints, Pieces, Vocabulary, Words, cut
from distilect.data import Table, check_suffix, read_texts, row_keys, write_columns
from distilect.errors import DataError, did_you_mean
from distilect.models.row_index import RowIndex, unique_rows
from distilect.progress import bar

METHODS = ("neighbours", "swap", "delete", "recombine", "mlm")
SHARES = {"neighbours": 0.4, "swap": 0.1, "delete": 0.1, "mlm": 0.15}  # of the words; neighbours as TinyBERT


@dataclass(frozen=True)
class Augmented:
    """New rows.

    Attributes:
        table: without labels, unless they were to be kept.
        source: int64 [n], the row that each was made of.
        dropped: how many were left out, as they were made twice or are rows already.
    """

    table: Table
    source: Ints
    dropped: int


def augment(
    table: Table,
    times: int = 20,
    *,
    seed: int = 0,
    kinds: Sequence[str] = ("neighbours",),
    model: str | None = None,
    probability: float | None = None,
    keep_labels: bool = False,
    exclude: Sequence[Table] = (),
) -> Augmented:
    """Make `times` changed copies of every row; the rows themselves are not among them.

    Copies take the kinds of change in turn. Each copy is a function of (seed, its number, the row's texts), so that neither the
    order of the rows nor the rows beside it matter (`recombine` aside, which needs a partner). Of two texts one or both are changed.

    Args:
        kinds: `neighbours`: words replaced by one of the 15 nearest of the model's static token embeddings (TinyBERT does so with
            GloVe); `swap`: words exchanged; `delete`: words left out; `recombine`: the head of a text with the tail of another's,
            of pairs one text of another row, both of a row near by where a model is given; `mlm`: words filled in by the model.
        model: checkpoint for neighbours, recombine and mlm (with a masked-LM head).
        probability: share of the words that are changed. Default: 0.4 (neighbours), 0.15 (mlm), 0.1.
        keep_labels: a copy keeps its row's label; by default it has none, and teachers say what it is.
        exclude: tables whose rows may not be made, such as those held out.

    Raises:
        DataError: an unknown kind, a model that is missing or does not fit, or nothing new came out.
    """
    _check(times, kinds, model, probability)
    maker = _Maker(table, kinds, model, seed, probability)
    with bar() as progress:
        task = progress.add_task("augmenting", total=times * len(table))
        copies = [maker.copy(number, lambda rows: progress.advance(task, rows)) for number in range(times)]
    columns = [pa.concat_arrays(list(parts)) for parts in zip(*copies, strict=True)]
    source = np.tile(np.arange(len(table)), times)
    whole = Table.from_columns(columns, table.labels[source])
    new = _new_rows(whole, [table, *exclude])
    if not len(new):
        raise DataError(f"none of {len(whole):,} changed rows is new: the texts are too short for {', '.join(kinds)}")
    made = whole.take(new)
    return Augmented(made if keep_labels else made.without_labels(), source[new], len(whole) - len(new))


def augment_file(
    train: str,
    output: str | Path,
    times: int = 20,
    *,
    seed: int = 0,
    kinds: Sequence[str] = ("neighbours",),
    model: str | None = None,
    probability: float | None = None,
    text: Sequence[str] | None = None,
    label: str | None = None,
    keep_labels: bool = False,
    data_dir: str | Path = ".",
) -> str:
    """Write the changed copies of a table's rows to another file, for `data.extra`; returns a line that says what was done.

    Args:
        train: as `data.train`, or a GLUE folder.
        output: .csv, .tsv, .jsonl or .parquet, with the columns of `train`; written whole or not at all.
        label: its column, with `keep_labels`; inferred from its name.
    """
    output = Path(output)
    check_suffix(output)
    columns, texts, labels = read_texts(train, text=text, label=label, labelled=keep_labels, data_dir=Path(data_dir))
    table = Table.from_columns(texts)
    made = augment(table, times, seed=seed, kinds=kinds, model=model, probability=probability)
    out: dict[str, pa.Array] = dict(zip(columns, made.table.texts, strict=False))
    if labels is not None:
        out[columns[-1]] = labels.take(pa.array(made.source))
    write_columns(output, out)
    return f"{len(made.table):,} rows made of {len(table):,} ({made.dropped:,} left out, as they were there already) → {output}"


class _Maker:
    """What all copies of one table share: its texts as pieces, and what may stand for each word."""

    def __init__(
        self, table: Table, kinds: Sequence[str], model: str | None, seed: int, probability: float | None
    ) -> None:
        self.table, self.kinds, self.seed, self.probability = table, list(kinds), seed, probability
        self.keys = row_keys(table.ids)
        self.vocabulary = Vocabulary()
        self.columns = [cut(column.to_pylist(), self.vocabulary) for column in table.texts]
        self.is_word = self.vocabulary.where(str.isalnum)
        self.is_space = self.vocabulary.where(str.isspace)
        self.filler = MaskedFiller(str(model)) if "mlm" in kinds else None
        self.vectors: NDArray[np.float32] | None = None
        if model is not None and set(kinds) & {"neighbours", "recombine"}:
            lexicon = load_lexicon(model)
            if "recombine" in kinds:
                self.vectors = self._vectors(lexicon)
            if "neighbours" in kinds:
                self.able, self.table_of = stand_ins(self.vocabulary, lexicon)
        if self.filler is not None:
            self.maskable = self.filler.maskable(self.vocabulary.pieces)

    def copy(self, number: int, advance: Callable[[int], object]) -> list[pa.Array]:
        """One changed text per row and column."""
        kind = self.kinds[number % len(self.kinds)]
        if kind == "recombine":
            texts = self._recombined(number)
        else:
            changed = [
                self._changed(kind, pieces, Draws(self.keys, self.seed, number, column), column, advance)
                for column, pieces in enumerate(self.columns)
            ]
            texts = self._one_or_both(changed, number)
        if kind != "mlm":
            advance(len(self.table))
        return texts

    def _changed(
        self, kind: str, pieces: Pieces, draws: Draws, column: int, advance: Callable[[int], object]
    ) -> pa.Array:
        share = SHARES[kind] if self.probability is None else self.probability
        if kind == "neighbours":
            changed = methods.neighbours(pieces, self.able, self.table_of, draws, share)
        elif kind == "mlm":
            assert self.filler is not None
            words = Words.among(pieces, self.maskable[pieces.ids])
            texts = self.table.texts[column].to_pylist()
            changed = self.filler.fill(
                texts, pieces, words, self.vocabulary, draws, share, lambda rows: advance(rows if column == 0 else 0)
            )
        else:
            words = Words.among(pieces, self.is_word[pieces.ids])
            if kind == "swap":
                changed = methods.swap(pieces, words, draws, share)
            else:
                changed = methods.delete(pieces, words, self.is_space, draws, share)
        return changed.join(self.vocabulary)

    def _one_or_both(self, changed: list[pa.Array], number: int) -> list[pa.Array]:
        """Of pairs a third each: the first text changed, the second, both."""
        if len(changed) == 1:
            return changed
        draw = Draws(self.keys, self.seed, number, len(changed)).rows()
        kept = (draw >= 2 / 3, draw < 1 / 3)  # where the first, where the second text stays
        return [
            pc.if_else(pa.array(stays), original, new)
            for stays, original, new in zip(kept, self.table.texts, changed, strict=True)
        ]

    def _recombined(self, number: int) -> list[pa.Array]:
        draws = Draws(self.keys, self.seed, number, 0)
        partner = methods.partners(self.vectors, len(self.table), draws)
        if len(self.columns) == 1:
            words = Words.among(self.columns[0], self.is_word[self.columns[0].ids])
            return [methods.crossover(self.columns[0], words, partner, draws).join(self.vocabulary)]
        first = pa.array(draws.rows() < 0.5)  # whose text comes from the partner; each stays in its column
        others = [column.take(pa.array(partner)) for column in self.table.texts]
        one, two = self.table.texts
        return [pc.if_else(first, others[0], one), pc.if_else(first, two, others[1])]

    def _vectors(self, lexicon: Lexicon) -> NDArray[np.float32]:
        places = lexicon.places(self.vocabulary.pieces)
        vectors = np.zeros((len(places), lexicon.vectors.shape[1]), np.float32)
        vectors[places >= 0] = lexicon.vectors[places[places >= 0]].numpy()
        return methods.row_vectors(self.columns, vectors)


def _new_rows(made: Table, known: Sequence[Table]) -> Ints:
    """Row numbers, ascending, of the first of each different row that no known table has, and that is not blank."""
    first = np.sort(unique_rows(made.ids))
    for table in known:
        first = first[RowIndex(table.ids).find(made.ids[first]) < 0]
    blank = np.ones(len(made), dtype=bool)
    for column in made.texts:
        blank &= np.asarray(pc.equal(column, ""))
    return first[~blank[first]]


def _check(times: int, kinds: Sequence[str], model: str | None, probability: float | None) -> None:
    if times < 1:
        raise DataError(f"times is {times}, expected 1 or more")
    if not kinds:
        raise DataError(f"no method was given: expected some of {', '.join(METHODS)}")
    for kind in kinds:
        if kind not in METHODS:
            raise DataError(
                f"no way to change texts is called {kind!r}; known: {', '.join(METHODS)}.{did_you_mean(kind, METHODS)}"
            )
    if model is None and set(kinds) & {"neighbours", "mlm"}:
        needing = next(kind for kind in kinds if kind in ("neighbours", "mlm"))
        raise DataError(f"method {needing} needs a model: a checkpoint, such as the student's own backbone")
    if probability is not None and not 0 < probability <= 1:
        raise DataError(f"probability is {probability}, expected a number in (0, 1]")
