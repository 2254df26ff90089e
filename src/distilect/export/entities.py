"""Tags of words, and the entities that they spell, by onnxruntime and tokenizers alone.

`distilect export` writes this file beside the ONNX file of a model that tags words; nothing in distilect imports it. Call `entities` or `tags`, or:

    python entities.py "Ada Lovelace lives in London."

Texts are split into words, and long ones are read in overlapping windows, as `distilect predict` does both.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Regex, Tokenizer
from tokenizers.pre_tokenizers import Split

FOLDER = Path(__file__).parent
# a run of letters and digits with single hyphens and dots inside it, or any other visible character
INNER = r"[\p{L}\p{M}\p{N}_" + "\u200c\u200d]"
WORD = rf"[\p{{L}}\p{{N}}_]{INNER}*(?:[-.][\p{{L}}\p{{N}}_]{INNER}*)*|[^\s\p{{Cc}}\p{{Cf}}]\p{{M}}*"
INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}

splitter = Split(Regex(WORD), behavior="removed", invert=True)
tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
labels = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))["id2label"]
file = next(FOLDER / name for name in ("model_int8.onnx", "model.onnx") if (FOLDER / name).is_file())
session = onnxruntime.InferenceSession(str(file))


def entities(texts: Sequence[str]) -> list[list[dict[str, Any]]]:
    """The entities of each text: start and end in characters, type, text, and probability, the mean of its words."""
    return [_spans(text, tagged) for text, tagged in zip(texts, tags(texts), strict=True)]


def tags(texts: Sequence[str]) -> list[list[tuple[int, int, str, float]]]:
    """The words of each text: start and end in characters, tag and its probability."""
    words = [splitter.pre_tokenize_str(text) for text in texts]
    found: list[list[tuple[int, int, str, float]]] = [[] for _ in texts]
    rows = [number for number, row in enumerate(words) if row]
    for number, logits in zip(rows, outputs([[word for word, _ in words[row]] for row in rows]), strict=True):
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = exponents / exponents.sum(axis=1, keepdims=True)
        for (_, (start, end)), share in zip(words[number], shares, strict=True):
            found[number].append((start, end, labels[str(share.argmax())], float(share.max())))
    return found


def outputs(rows: Sequence[Sequence[str]]) -> list[Any]:
    """float32 [words, tags] of each row of words."""
    if not rows:
        return []
    encodings = tokenizer.encode_batch([" ".join(row) for row in rows])
    windows = [[encoding, *encoding.overflowing] for encoding in encodings]
    flat = [window for row in windows for window in row]
    feed = {
        each.name: np.array([getattr(window, INPUTS[each.name]) for window in flat], dtype=np.int64)
        for each in session.get_inputs()
    }
    logits = iter(session.run(None, feed)[0])  # a sequence per window: [tokens, tags]
    return [
        _at_words(row, [(window, next(logits)) for window in of_row]) for row, of_row in zip(rows, windows, strict=True)
    ]


def _at_words(words: Sequence[str], windows: Sequence[tuple[Any, Any]]) -> Any:
    """float32 [words, tags]: each word at its first token, in the window where that token has most context."""
    begins = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
    best: dict[int, tuple[tuple[int, int], Any]] = {}
    for window, logits in windows:
        real = np.flatnonzero(window.attention_mask)
        for place, (start, end) in enumerate(window.offsets):
            if end > start:  # special tokens and padding stand for no characters
                word = int(np.searchsorted(begins, end - 1, side="right")) - 1
                rank = (start, -int(min(place - real[0], real[-1] - place)))
                if word not in best or rank < best[word][0]:
                    best[word] = rank, logits[place]
    last = best[min(best)][1] if best else windows[0][1][0]
    found = []
    for word in range(len(words)):  # a word that the tokenizer makes nothing of is read at the one before it
        last = best[word][1] if word in best else last
        found.append(last)
    return np.stack(found)


def _spans(text: str, tagged: Sequence[tuple[int, int, str, float]]) -> list[dict[str, Any]]:
    """BIO, BIOES and BILOU: an I-, E- or L- that continues nothing begins an entity."""
    found: list[dict[str, Any]] = []
    open_ = False
    for start, end, tag, share in tagged:
        letter, _, kind = tag.partition("-")
        if tag == "O":
            open_ = False
            continue
        if not (open_ and letter in "IEL" and found[-1]["type"] == (kind or "_")):
            found.append({"start": start, "type": kind or "_", "shares": []})
        found[-1] |= {"end": end, "text": text[found[-1]["start"] : end]}
        found[-1]["shares"].append(share)
        open_ = letter in "BI"
    return [
        {key: entity[key] for key in ("start", "end", "type", "text")}
        | {"probability": float(np.mean(entity["shares"]))}
        for entity in found
    ]


if __name__ == "__main__":
    for line in sys.argv[1:] or (text.rstrip("\n") for text in sys.stdin):
        print(json.dumps(entities([line])[0], ensure_ascii=False))
