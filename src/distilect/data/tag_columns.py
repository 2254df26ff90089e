"""Tables of words: a column with the list of each row's words, and one with the list of their tags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distilect.config import TaskConfig
from distilect.data.columns import ROW_NUMBERS, SINGLES, Columns, is_string, text_columns
from distilect.data.label_sets import is_list
from distilect.data.labels import LabelColumn, refuse_unlabelled
from distilect.data.source import Rows, Source, check_columns, listed
from distilect.data.table import WORD_END, Table, identities
from distilect.data.units import Units
from distilect.errors import DataError
from distilect.tasks import NO_LABEL, Kind, Task, kind_of_metrics
from distilect.tasks.tags import Reading, closed, misfit, read_tags

# Usual names in lower case, in order of preference.
WORDS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "ner", "pos_tags", "pos", "upos", "labels", "label")
_PEEK = 100  # rows that tell whether columns hold lists
ANY_TASK = Task("words", "tokens", ("0", "1"), ("accuracy",), 1)  # of words without labels
_BLANK = r"\A[\p{Z}\p{Cc}\p{Cf}]*\z"  # spaces, control characters, invisible marks
_INTEGER = r"\A-?[0-9]+\z"


def choose_word_columns(
    source: Source,
    text: str | Sequence[str] | None,
    label: str | Sequence[str] | None,
    *,
    labelled: bool = True,
    words_alone: bool = False,
) -> Columns:
    """The columns of words and of tags; in a CoNLL file by number, negative ones from the end.

    Args:
        text, label: as the user gave them; None: the usual names, in a CoNLL file the first and the last.
        labelled: whether a column of tags is needed; without it `label` stays None.
        words_alone: a table of words (and row numbers) alone is taken as one without tags.

    Raises:
        DataError: several columns for one of them, or one that is missing.
    """
    given, wanted = _only(text, "text"), _only(label, "label")
    if source.words:
        given, wanted = _numbered(given, source), _numbered(wanted, source)
        defaults = source.words
    else:
        defaults = (_usual(WORDS, source), _usual(TAGS, source, given or ""))
    check_columns([name for name in (given, wanted if labelled else None) if name], source.columns, source.label)
    words = given or defaults[0]
    if not words:
        raise DataError(
            f"{source.label}: no column has a usual name for words ({', '.join(WORDS)}); its columns: {listed(source.columns)}. "
            "Set data.text to the one with the lists of words"
        )
    tags = wanted or (defaults[1] if len(defaults) > 1 and defaults[1] != words else "")
    if not labelled:
        return Columns((words,), None, inferred=given is None)
    if words == tags:
        raise DataError(f"{source.label}: column {words!r} cannot be both words and tags: set data.text and data.label")
    others = [name for name in source.columns if name != words and name.lower() not in ROW_NUMBERS]
    if not tags and (others or not words_alone):
        raise DataError(
            f"{source.label}: no column has a usual name for tags ({listed(TAGS, 3)}); its columns: {listed(source.columns)}. "
            "Set data.label to the one with the lists of tags"
        )
    return Columns((words,), tags or None, inferred=given is None or (wanted is None and bool(tags)))


def has_tags(source: Source) -> bool:
    """Whether a table of words has a column with a usual name for tags, or in CoNLL's form a second one."""
    return len(source.words or ()) > 1 or bool(_usual(TAGS, source))


def is_word_table(
    source: Source, text: str | Sequence[str] | None, label: str | Sequence[str] | None, settings: TaskConfig
) -> bool:
    """Whether rows are lists of words: by the task's kind, a CoNLL file, or a column of lists where texts would be.

    A list of labels beside a text is not this but multi-label.

    Raises:
        DataError: a CoNLL file for another kind of task.
    """
    kind = settings.kind
    if kind == "auto" and kind_of_metrics(tuple(settings.metrics or ())) == "tokens":
        kind = "tokens"
    if source.words and kind not in ("auto", "tokens"):
        raise DataError(f"{source.label} is a CoNLL file, task.kind is {kind}: expected task.kind tokens")
    if source.words or kind == "tokens":
        return True
    if kind != "auto" or not (text is None or isinstance(text, str)) or not (label is None or isinstance(label, str)):
        return False
    words = text or _usual(WORDS, source)
    tags = label or _usual(TAGS, source, words)
    if not {words, tags} - {""} <= set(source.columns) or not words:
        return False
    return _hold_lists(source, words, tags)


def _hold_lists(source: Source, words: str, tags: str) -> bool:
    """Whether the first rows have lists of words and, where there are tags, as many of these; where no column has a usual
    name for texts, lists of words suffice."""
    has_text = bool({name.lower() for name in source.columns} & set(SINGLES))
    try:
        block = next(iter(source.blocks([name for name in (words, tags) if name], _PEEK)), None)
    except DataError:
        if has_text:  # a column that is not read then may hold anything
            return False
        raise
    if block is None or not is_list(block.table[words].type):
        return False
    if not has_text:
        return True
    if not tags or not is_list(block.table[tags].type):
        return False
    sizes = [pc.list_value_length(block.table[name]).combine_chunks() for name in (words, tags)]
    return bool(pc.all(pc.fill_null(pc.equal(*sizes), True)).as_py())


def _only(given: str | Sequence[str] | None, key: str) -> str | None:
    names = [given] if isinstance(given, str) else list(given or ())
    if len(names) > 1:
        raise DataError(
            f"data.{key} names {len(names)} columns ({listed(names)}); a tokens task has one: name it alone"
        )
    return names[0] if names else None


def _numbered(name: str | None, source: Source) -> str | None:
    """A column's number from 0, of one from the end."""
    if name is None or not name.removeprefix("-").isdecimal():
        return name
    number = int(name)
    return str(number + len(source.columns)) if -len(source.columns) <= number < 0 else name


def _usual(names: Sequence[str], source: Source, other: str = "") -> str:
    """The first column with a usual name; "" if there is none."""
    lower = {name.lower(): name for name in reversed(source.columns) if name != other}
    return next((lower[name] for name in names if name in lower), "")


@dataclass(frozen=True, eq=False)
class _Words(Rows):
    """Words as rows, so that a `LabelColumn` can read their tags; `place` says where one is."""

    place: Callable[[int], str] = str

    def where(self, row: int) -> str:
        return self.place(row)


class TagColumn:
    """The words of each row and their tags, read until the task is known.

    Words that hold nothing visible (spaces, control characters) are left out with their tags, and rows without words too.

    Attributes:
        rows: as they were read; `kept`: int64 [N], which of them have words.
        words: large_string [U], row by row; `units` says how many each row has.
        sizes: int64, words of every row as it was read, those without visible characters too.
        tags: of the words that have one, in place `labelled` (int64); None where the table has none.
        class_names: names behind the integers, where the file tells them.
        notes: lines for the user.

    Raises:
        DataError: a column without lists, a row with another number of tags than words, or a word without a tag.
    """

    def __init__(self, rows: Rows, words: str, tags: str | None) -> None:
        self.rows, self.column, self.notes, self.iob1 = rows, tags, list[str](), False
        lists = _lists(rows, words, "words")
        self.sizes = sizes = _sizes(lists)
        values = _flat(lists).cast(pa.large_string())
        owner = np.repeat(np.arange(len(lists)), sizes)
        self._place = np.arange(len(values)) - np.repeat(
            np.cumsum(sizes) - sizes, sizes
        )  # of a word in its row as read
        self._owner, self.words = owner, values
        self._check_words(words)
        aligned = None if tags is None else self._aligned(_lists(rows, tags, "tags"), sizes, words)
        kept = self._visible()
        self.words, self._owner, self._place = values.filter(pa.array(kept)), owner[kept], self._place[kept]
        sizes = np.bincount(self._owner, minlength=len(lists))
        self.kept = np.flatnonzero(sizes)
        self.units = Units.of_sizes(sizes[self.kept])
        self._report_left_out(kept, sizes, words)
        self.tags, self.labelled = self._tag_names(aligned, kept)
        self.class_names = None if self.tags is None else self.tags.class_names

    def __len__(self) -> int:
        return len(self.words)

    @property
    def places(self) -> NDArray[np.int64]:
        """int64 [U]: where each word stands in its row as it was read."""
        return self._place

    @property
    def as_read(self) -> NDArray[np.int64]:
        """int64 [U]: where each word stands among all words of the rows as they were read."""
        starts = np.cumsum(self.sizes) - self.sizes
        return np.asarray(starts[self._owner] + self._place)

    def where(self, word: int) -> str:
        """Such as `train.conll, line 12, word 3 ('Paris')`; the line is that of the first word."""
        return _where(self.rows, self.words, self._owner, self._place, word)

    def require_all(self, role: str) -> None:
        """Refuse a table without words, and rows without tags, unless the table has none at all.

        Raises:
            DataError: names the first one.
        """
        if not len(self.kept):
            raise DataError(f"{self.rows.label}: no row has words")
        self.require_tags(role)

    def require_tags(self, role: str) -> None:
        """Refuse rows without tags, unless the table has none at all.

        Raises:
            DataError: names the first one.
        """
        if self.column is not None:
            refuse_unlabelled(self.rows, self.rows.table[self.column].combine_chunks(), self.column, role)

    def kind(self) -> Kind:
        return "tokens"

    def found(self) -> list[str]:
        """The label set: of a scheme O, then all tags of each type; else the tags that occur, sorted.

        Raises:
            DataError: the tags are integers without names.
        """
        if self.tags is None:
            return []
        found = self.tags.found()
        if self.class_names is None and found and all(name.removeprefix("-").isdecimal() for name in found):
            raise DataError(
                f"{self.rows.label}: column {self.column!r} holds integers ({listed(found, 5)}) without names: name the tags with "
                "task.labels, in the order of the integers"
            )
        whole = closed(found)
        added = [] if whole is None else [label for label in whole if label not in found]
        if added:
            self._note(f"{listed(added)} added to the tags: every type has all of its scheme's")
        odd = None if whole is not None else misfit(found)
        if odd is not None and any(name == "O" or name[1:2] == "-" for name in found):
            self._note(f"the tags are read as plain ones, not as entities, because {odd!r} is no tag of a scheme")
        return list(whole or found)

    def table(self, task: Task, role: str, origin: str, iob1: bool | None = None) -> Table:
        """The rows with the class index of each word, -100 where it has no tag; tags in IOB1 become BIO, and `iob1` says so.

        Args:
            origin: where the task's labels come from, for the message.
            iob1: whether the tags are IOB1, where more rows than these have told; None: these tell.

        Raises:
            DataError: a tag that is not the task's, with its place.
        """
        classes = np.full(len(self.words), NO_LABEL, dtype=np.int64)
        if self.tags is not None:
            classes[self.labelled] = self.tags.classes(task.labels, role, origin)
            self.notes += [note for note in self.tags.notes if note not in self.notes]
        if task.scheme is not None:
            try:
                reading = read_tags(classes, self.units.offsets, task.labels, task.scheme, iob1)
            except DataError as error:
                raise DataError(f"{self.rows.label}: {error}") from None
            self._report_scheme(reading, task.labels)
            classes, self.iob1 = reading.classes, reading.scheme == "IOB1"
        return self._rows(classes)

    def words_alone(self) -> Table:
        """The rows without tags, whatever task these are of."""
        return self._rows(np.full(len(self.words), NO_LABEL, dtype=np.int64))

    def tag_lists(self) -> pa.Array:
        """[N]: the tags of each row's words by name, null where a word has none."""
        assert self.tags is not None
        index = np.full(len(self.words), -1, dtype=np.int64)
        index[self.labelled] = np.arange(len(self.labelled))
        names = self.tags.names.take(pa.array(index, mask=index < 0))
        return pa.LargeListArray.from_arrays(pa.array(self.units.offsets), names)

    def in_entities(self) -> NDArray[np.bool_]:
        """bool [U]: words of entities; none where there are no tags, or these follow no scheme."""
        found = np.zeros(len(self.words), dtype=bool)
        if self.tags is not None and closed(self.tags.found()) is not None:
            found[self.labelled] = pc.not_equal(self.tags.names, "O").to_numpy(zero_copy_only=False)
        return found

    def _rows(self, classes: NDArray[np.int64]) -> Table:
        rows = pa.LargeListArray.from_arrays(pa.array(self.units.offsets), self.words)
        texts = pc.binary_join(rows, pa.scalar(WORD_END, pa.large_string()))
        return Table((texts,), classes, identities([texts]), units=self.units)

    def _check_words(self, name: str) -> None:
        if self.words.null_count:
            word = int(pc.index(pc.is_null(self.words), True).as_py())
            raise DataError(
                f"{self.rows.where(int(self._owner[word]))}: a word in column {name!r} is null: write a text"
            )
        word = int(pc.index(self._holds_separator(), True).as_py())
        if word >= 0:
            raise DataError(f"{self.where(word)}: the word holds the control character \\x1f: clean it")

    def _holds_separator(self) -> pa.Array:
        blank = pc.match_substring_regex(self.words, _BLANK)
        return pc.and_(pc.match_substring(self.words, WORD_END), pc.invert(blank))

    def _visible(self) -> NDArray[np.bool_]:
        return np.asarray(pc.invert(pc.match_substring_regex(self.words, _BLANK)).to_numpy(zero_copy_only=False), bool)

    def _report_left_out(self, kept: NDArray[np.bool_], sizes: NDArray[np.int64], name: str) -> None:
        if words := int((~kept).sum()):
            self._note(f"{words:,} words without visible characters left out, with their tags")
        empty = np.flatnonzero(sizes == 0)
        if len(empty):
            first = self.rows.where(int(empty[0]))
            self._note(f"{len(empty):,} rows without words in column {name!r} left out, the first: {first}")

    def _aligned(self, lists: pa.Array, sizes: NDArray[np.int64], words: str) -> pa.Array:
        """[U]: a tag per word; null in rows whose list of tags is null."""
        missing, tag_sizes = pc.is_null(lists).to_numpy(zero_copy_only=False), _sizes(lists)
        wrong = np.flatnonzero(~missing & (sizes != tag_sizes))
        if len(wrong):
            row = int(wrong[0])
            raise DataError(
                f"{self.rows.where(row)}: {sizes[row]} words in column {words!r} and {tag_sizes[row]} tags in {self.column!r}: "
                "expected a tag per word"
            )
        known = ~missing[self._owner]
        index = np.cumsum(known) - 1
        return _flat(lists).take(pa.array(index, mask=~known))

    def _tag_names(
        self, values: pa.Array | None, kept: NDArray[np.bool_]
    ) -> tuple[LabelColumn | None, NDArray[np.int64]]:
        """The tags of the words that have one, and the places of these. Null is none; so are negative integers, as in `datasets`."""
        if values is None or self.column is None:
            return None, np.empty(0, np.int64)
        values = _without_negatives(values.filter(pa.array(kept)))
        labelled = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
        # without a reference to this column: as a circle, the blocks of a streamed table would pile up until they are collected
        place = partial(_where, self.rows, self.words, self._owner, self._place)
        rows = _Words(
            pa.table({self.column: values.drop_null()}),
            self.rows.label,
            np.empty(0, np.int64),
            class_names=self.rows.class_names,
            place=lambda word: place(int(labelled[word])),
        )
        tags = LabelColumn(rows, self.column)
        lacking = int(pc.index(pc.is_null(tags.names), True).as_py())
        if lacking >= 0:
            raise DataError(f"{rows.where(lacking)}: no tag in column {self.column!r}: expected one per word")
        return tags, labelled

    def _report_scheme(self, reading: Reading, labels: Sequence[str]) -> None:
        if reading.changed:
            self._note(f"the tags are IOB1, read as BIO ({reading.changed:,} tags written anew)")
        if not len(reading.illegal):
            return
        first = int(reading.illegal[0])
        tag = labels[int(reading.classes[first])]
        self._note(
            f"{len(reading.illegal):,} of {len(self.words):,} tags are illegal in {reading.scheme} and kept as they are (an entity "
            f"begins where none is continued), the first: {tag} at {self.where(first)}"
        )

    def _note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)


def _where(rows: Rows, words: pa.Array, owner: NDArray[np.int64], place: NDArray[np.int64], word: int) -> str:
    shown = str(words[word].as_py())[:40]
    return f"{rows.where(int(owner[word]))}, word {place[word] + 1} ({shown!r})"


def _without_negatives(tags: pa.Array) -> pa.Array:
    """Negative integers as null, also of JSON files, where integers have become texts."""
    if pa.types.is_integer(tags.type):
        return pc.if_else(pc.less(tags, 0), pa.scalar(None, tags.type), tags)
    if is_string(tags.type) and pc.all(pc.match_substring_regex(tags, _INTEGER)).as_py():
        return pc.if_else(pc.starts_with(tags, "-"), pa.scalar(None, tags.type), tags)
    return tags


def plain_texts(rows: Rows, names: Sequence[str]) -> list[pa.Array]:
    """The text columns as strings; a column of lists of words as what a model of a tokens task reads, with a space between words.

    Raises:
        DataError: as `text_columns`, which leaves out no row; lists without a word are left out here.
    """
    if not is_list(rows.table[names[0]].type):
        return text_columns(rows, names)
    texts = pc.binary_join(_lists(rows, names[0], "words").cast(pa.list_(pa.string())), " ")
    return [texts.filter(pc.fill_null(pc.invert(pc.match_substring_regex(texts, _BLANK)), False))]


def _lists(rows: Rows, name: str, what: str) -> Any:
    """A column of lists; one without values is a column of missing lists.

    Raises:
        DataError: it holds something else.
    """
    values = rows.table[name].combine_chunks()
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.large_list(pa.large_string()))
    if not is_list(values.type):
        key = "text" if what == "words" else "label"
        raise DataError(
            f"{rows.label}: column {name!r} holds {values.type}, expected lists of {what} for task.kind tokens: set data.{key} to a column of "
            "lists (JSONL, Parquet), or give a CoNLL file"
        )
    inner = values.type.value_type
    if what == "words" and not (is_string(inner) or pa.types.is_null(inner) or pa.types.is_dictionary(inner)):
        raise DataError(f"{rows.label}: column {name!r} holds lists of {inner}, expected lists of words: set data.text")
    return values


def _flat(lists: Any) -> Any:
    """The elements of all lists; a column of nulls as texts."""
    values = lists.flatten()
    if pa.types.is_dictionary(values.type):
        return values.dictionary_decode()
    return values.cast(pa.large_string()) if pa.types.is_null(values.type) else values


def _sizes(lists: pa.Array) -> NDArray[np.int64]:
    """int64 [N]: how many elements each list has; 0 of null."""
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False), dtype=np.int64)
