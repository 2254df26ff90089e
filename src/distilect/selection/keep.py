"""The recipe `keep`: a student that keeps what its teacher can do. First the body learns, then the outputs (TinyBERT's order).

The two stages are kept apart because they pull on the same weights with losses of other sizes: hidden states have thousands of numbers per
row, outputs a few. In a stage of their own the hidden states cannot drown the outputs, and no weight between them has to be found.
Within the first stage each kind is brought to one size (`balance`), so that none of them dominates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distilect.knowledge import Layout


def stages(layout: Layout, labelled: bool = True) -> Mapping[str, Any]:
    """`body`: embeddings, hidden states and attention relations of mapped layers, from the best teacher. `outputs`: all teachers'
    outputs, T falling from 4 to 1 (Annealing-KD; Jafari et al., 2021, arXiv 2104.07163), and labels with a tenth of the weight.

    What a teacher cannot give is left out: without hidden states (a table, a function) there is no first stage. With other tokens than
    the student's, hidden states are compared as means over a row's tokens, and attention relations not at all.

    Args:
        labelled: the validation split has labels, which say what teacher is the best; otherwise the largest stands for it.
    """
    response = {"temperature": 4.0, "final_temperature": 1.0}
    outputs = {"method": {"name": "uniform", "alpha": 0.9, "knowledge": {"response": response}}}
    body = _body(layout, labelled)
    return {"outputs": outputs} if body is None else {"body": body, "outputs": outputs}


def _body(layout: Layout, labelled: bool) -> dict[str, Any] | None:
    """The first stage, from one teacher; None where none has hidden states."""
    deep = [k for k in range(layout.num_teachers) if layout.teacher_layers[k]]
    if not deep:
        return None
    # the best one where all will do, otherwise the largest of those that give most
    alike = [k for k in deep if layout.same_tokens[k]]
    pool = alike or deep
    best = len(pool) == layout.num_teachers and (labelled or len(pool) == 1)
    largest = max(pool, key=lambda k: layout.teacher_layers[k] * layout.teacher_widths[k])
    teacher = {} if best else {"teachers": {"teacher": layout.teachers[largest]}}
    knowledge: dict[str, Any] = {"labels": False, "response": False, "feature": {"embeddings": True}}
    if not alike:
        knowledge["feature"]["tokens"] = "mean"
    elif all(layout.attention[k] for k in (pool if best else [largest])):
        knowledge["attention"] = {}
    weights = {"name": "all-ones", "balance": "labels"}
    return {"method": {"name": "kd", **teacher, "knowledge": knowledge, "loss_weights": weights}}
