"""Completions that language models write, and their scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from distilect.config import GenerationConfig
from distilect.data import Table
from distilect.errors import ConfigError
from distilect.evaluation import Prompts, completion_scores, matches, prompts_of, write_completions
from tests.language import pairs, read, toy_tokens
from tests.tiny import SENTENCES, llama_tokenizer, tiny_llama

TOKENIZER = llama_tokenizer()


def asked(table: Table, rows: int = 6, **options: Any) -> Prompts:
    return prompts_of(table, TOKENIZER, GenerationConfig(rows=rows, **options))


def by_hand(model: Any, prompt: np.ndarray[Any, Any], room: int, stops: set[int]) -> list[int]:
    """Greedy, one prompt at a time, without a cache."""
    ids = prompt.tolist()
    for _ in range(room):
        with torch.no_grad():
            following = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if following in stops:
            break
        ids.append(following)
    return ids[len(prompt) :]


def test_a_batch_writes_what_each_prompt_gets_by_itself_and_stops_at_its_end(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama(tmp_path, 2)).train()
    model.generation_config.update(do_sample=True, temperature=9.0, repetition_penalty=5.0, max_new_tokens=1)
    own = model.generation_config
    prompts = asked(toy_tokens(12), max_new_tokens=12)
    assert len({len(tokens) for tokens in prompts.tokens}) > 1  # so that some are padded
    free = [by_hand(model.eval(), tokens, 12, set()) for tokens in prompts.tokens]
    stop = free[0][3]  # a token that ends some of them early
    ended = Prompts(**{**prompts.__dict__, "stop": stop})
    model.train()
    for given, stops in ((prompts, {2}), (ended, {2, stop})):
        ((place, room),) = given.batches()
        said = write_completions(model, given, place, room, "fp32")
        expected = [by_hand(model.eval(), given.tokens[n], room, stops) for n in place]
        assert [tokens.tolist() for tokens in said] == expected
        model.train()
    assert len({len(tokens) for tokens in said}) > 1
    assert model.generation_config is own and model.training


def test_rows_are_a_sample_that_does_not_depend_on_their_order_and_have_whole_completions() -> None:
    table = toy_tokens(30)
    prompts = asked(table)
    order = np.random.default_rng(0).permutation(30)
    shuffled = asked(table.take(order))
    assert sorted(prompts.prompts) == sorted(shuffled.prompts) and len(prompts.rows) == 6
    true = pairs(30)
    for row, prompt, completion in zip(prompts.rows, prompts.prompts, prompts.completions, strict=True):
        assert prompt == true[row]["prompt"] and completion == true[row]["completion"]
    assert asked(table, max_new_tokens=500).batches()[0][1] < 32  # both within 32 tokens
    limit = int(np.median(table.tokens.rows.sizes))  # type: ignore[union-attr]
    cut = read(pairs(30), ("prompt", "completion"), limit).table
    assert all(len(cut.tokens.ids[cut.tokens.rows.of([row])]) < limit for row in asked(cut, 30).rows)


def test_of_a_chat_the_first_answer_is_asked_for() -> None:
    said = ["user", "good food", "assistant", "a joy", "user", "and", "assistant", "bad food"]
    chat = [{"role": role, "content": text} for role, text in zip(said[::2], said[1::2], strict=True)]
    prompts = asked(read([{"messages": chat}], ("messages",), 64).table)
    assert "good food" in prompts.prompts[0] and "a joy" not in prompts.prompts[0]
    assert "a joy" in prompts.completions[0] and "bad" not in prompts.completions[0]


def test_what_cannot_be_asked_is_refused() -> None:
    plain = read([{"text": text} for text in SENTENCES], ("text",)).table
    with pytest.raises(ConfigError, match="no dev row has a prompt and a whole completion within 32 tokens"):
        asked(plain)
    with pytest.raises(ConfigError, match="none of the 6 completions holds '####'"):
        asked(toy_tokens(12), answer_after="####")


def test_scores_are_those_of_their_definitions() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    true = ["6 * 7 = 42\n#### 42", "so much\n#### 1,080", "no answer"]
    said = ["6 * 7 = 42\n####  42 ", "less\n#### 12\n#### 1080\nand so on", "No_answer, none"]
    found = completion_scores(true, said, "####")
    assert found["exact_match"] == pytest.approx(1 / 3)  # white space does not count
    assert found["answer_match"] == 1  # the last one, to the end of its line; of the rows that have one
    expected = [scorer.score(t, s)["rougeL"].fmeasure for t, s in zip(true, said, strict=True)]
    assert found["rouge_l"] == pytest.approx(np.mean(expected))
    assert set(completion_scores(true, said)) == {"exact_match", "rouge_l"}
    assert completion_scores(["das Öl fließt ab"], ["das Öl fließt"])["rouge_l"] == pytest.approx(2 * 3 / (4 + 3))
    assert matches("a b", " a\nb") and not matches("a #### 4", "a 4", "####") and matches("x #### 4", "y ####4", "####")
