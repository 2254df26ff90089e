"""What a language model writes for the prompts of a table, and how it compares with the true completions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilect.config import GenerationConfig
from distilect.errors import ConfigError
from distilect.evaluation.modes import eval_mode
from distilect.models.precision import autocast

if TYPE_CHECKING:
    from distilect.data.table import Table

SCORES = ("exact_match", "answer_match", "rouge_l")  # of `completion_scores`
BATCH = 16  # prompts at a time, of similar length
_WORDS = re.compile(r"[^\W_]+")
_WITHIN_NUMBER = re.compile(r"(?<=\d),(?=\d)")


@dataclass(frozen=True)
class Prompts:
    """Rows whose completions a model is to write.

    Attributes:
        rows: int64 [n], ascending, places in the table.
        tokens: of each prompt.
        prompts, completions: the same and the true completions as texts, without special tokens.
        config: how they are written.
        limit: tokens of a prompt and its completion together.
        stop: the token that ends a completion; None: the tokenizer has none.
        pad: token that pads a prompt.
    """

    rows: NDArray[np.int64]
    tokens: list[NDArray[np.int64]]
    prompts: list[str]
    completions: list[str]
    config: GenerationConfig
    limit: int
    stop: int | None
    pad: int

    def batches(self) -> list[tuple[NDArray[np.int64], int]]:
        """Prompts of similar length (places in `rows`), and how many tokens may follow them: the same for every model."""
        lengths = np.array([len(tokens) for tokens in self.tokens])
        order = np.argsort(lengths, kind="stable")
        found = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        return [(own, min(self.config.max_new_tokens, self.limit - int(lengths[own].max()))) for own in found]


def prompts_of(table: Table, tokenizer: Any, config: GenerationConfig) -> Prompts:
    """`config.rows` rows with a prompt and a whole completion: a random sample, the same one in every run, as keys are hashes.

    Of a chat with several answers the first one is asked for.

    Args:
        table: of a language model.

    Raises:
        ConfigError: no row has both, or no completion has `answer_after`.
    """
    tokens, units = table.tokens, table.units
    assert tokens is not None and units is not None
    first = tokens.places[units.offsets[:-1]]
    usable = np.flatnonzero((first > 1) & (tokens.rows.sizes < tokens.limit))
    if not len(usable):
        raise ConfigError(
            f"generation.rows is set, but no dev row has a prompt and a whole completion within {tokens.limit} tokens: set a larger "
            "train.max_length, or generation.rows: 0 for plain text"
        )
    rows = np.sort(usable[np.lexsort(table.ids[usable].T[::-1])][: config.rows])
    asked, answers = [], []
    for row in rows.tolist():
        ids = tokens.ids[tokens.rows.of([row])].astype(np.int64)
        places = tokens.places[units.of([row])]
        answer = places[: int((places == places[0] + np.arange(len(places))).sum())]  # up to what the user says next
        asked.append(ids[: places[0]])
        answers.append(ids[answer])
    said = [decoded(tokenizer, answer) for answer in answers]
    if config.answer_after is not None and not any(config.answer_after in text for text in said):
        raise ConfigError(
            f"generation.answer_after: none of the {len(said)} completions holds {config.answer_after!r}: remove it, or set what stands "
            "before the final answer"
        )
    prompts = [decoded(tokenizer, prompt) for prompt in asked]
    return Prompts(rows, asked, prompts, said, config, tokens.limit, tokenizer.eos_token_id, tokens.pad)


def decoded(tokenizer: Any, tokens: NDArray[np.int64]) -> str:
    """The text of some tokens, without special ones."""
    return str(tokenizer.decode(tokens.tolist(), skip_special_tokens=True))


def write_completions(
    model: Any, prompts: Prompts, own: NDArray[np.int64], room: int, precision: str = "auto"
) -> list[NDArray[np.int64]]:
    """What a model writes for some prompts, each token the likeliest one; up to the token that ends a completion, which is left out.

    Args:
        own: places in `prompts.rows`; room: tokens that may follow.
    """
    from transformers import GenerationConfig as Greedy

    device = next(model.parameters()).device
    width = max(len(prompts.tokens[place]) for place in own)
    ids = torch.full((len(own), width), prompts.pad)
    mask = torch.zeros_like(ids)
    for line, place in enumerate(own):  # padded on the left: what is written follows the prompt
        tokens = torch.from_numpy(prompts.tokens[place])
        ids[line, width - len(tokens) :], mask[line, width - len(tokens) :] = tokens, 1
    own_stops = getattr(model.generation_config, "eos_token_id", None)
    stops = {*_listed(prompts.stop), *_listed(own_stops)}
    greedy = Greedy(max_new_tokens=room, do_sample=False, pad_token_id=prompts.pad, eos_token_id=sorted(stops) or None)
    # a checkpoint's own settings (sampling, penalties) would be merged with these
    kept, model.generation_config = model.generation_config, greedy
    try:
        with eval_mode(model), torch.inference_mode(), autocast(precision, device):
            found = model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=greedy)
    finally:
        model.generation_config = kept
    return [_until(line, stops) for line in found[:, width:].cpu().numpy()]


def _listed(value: Any) -> list[int]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [int(value)]


def _until(tokens: NDArray[np.int64], stops: set[int]) -> NDArray[np.int64]:
    """The tokens before the first of `stops`."""
    ends = np.flatnonzero(np.isin(tokens, list(stops)))
    return tokens[: ends[0]] if len(ends) else tokens


# ---- scores --------------------------------------------------------------------------------------------------------


def check_rouge() -> None:
    """Raises:
    ConfigError: the package is missing.
    """
    try:
        import rouge_score  # noqa: F401
    except ImportError:
        raise ConfigError(
            "generation.rows needs the package rouge-score: pip install 'distilect[lm]', or set generation.rows: 0"
        ) from None


def completion_scores(true: Sequence[str], said: Sequence[str], answer_after: str | None = None) -> dict[str, float]:
    """exact_match: share of completions that are the true ones, whatever the white space; answer_match: the same of the final answers, where
    they are marked; rouge_l: mean F-measure of the longest common subsequence of words (Lin, 2004).

    Args:
        answer_after: what stands before a final answer; rows whose true completion lacks it do not count there.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    pairs = list(zip(true, said, strict=True))
    found = {"exact_match": float(np.mean([_plain(t) == _plain(s) for t, s in pairs]))}
    if answer_after is not None:
        marked = [(t, s) for t, s in pairs if answer_after in t]
        found["answer_match"] = float(np.mean([matches(t, s, answer_after) for t, s in marked]))
    found["rouge_l"] = float(np.mean([scorer.score(t, s)["rougeL"].fmeasure for t, s in pairs]))
    return found


def matches(true: str, said: str, answer_after: str | None = None) -> bool:
    """Whether a completion counts as right: its final answer, where the true one has one, else all of it."""
    if answer_after is None or answer_after not in true:
        return _plain(true) == _plain(said)
    return answer_after in said and _answer(true, answer_after) == _answer(said, answer_after)


def _answer(text: str, after: str) -> str:
    """The rest of the line after the last `after`; `1,080` is 1080."""
    line = text.rpartition(after)[2].strip().partition("\n")[0]
    return _plain(_WITHIN_NUMBER.sub("", line))


def _plain(text: str) -> str:
    return " ".join(text.split())


class _Words:
    """Words in any script; of ASCII texts those of rouge-score, which drops all other letters."""

    def tokenize(self, text: str) -> list[str]:
        return _WORDS.findall(text.lower())
