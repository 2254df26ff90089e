"""FSDP2: the student's parameters, gradients and optimiser in pieces, one per rank; the run is that of one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.launch import run_ranks
from tests.training.helpers import Bench
from tests.training.several import ROWS, main, narrow_student

METHODS = ["uniform", "rlkd", "dynamic-data", "parts", "projections", "rows skipped"]
PLUGIN = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "BertLayer",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


def on_cpu() -> None:
    """accelerate shards on accelerators only; here it shall on the processor, over gloo."""
    import os

    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    os.environ.update(PLUGIN)
    start = AcceleratorState.__init__

    def with_plugin(self: Any, *arguments: Any, fsdp_plugin: Any = None, **more: Any) -> None:
        start(self, *arguments, fsdp_plugin=fsdp_plugin, **more)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = with_plugin


@pytest.mark.slow
def test_sharded_students_train_as_one_process(tmp_path: Path) -> None:
    narrow_student(Bench(tmp_path, rows=ROWS))
    main(tmp_path, METHODS)

    def sharded() -> None:
        from distilect.training.trainer import DistillationTrainer
        from tests.training import several

        on_cpu()
        train = several.train
        seen: list[bool] = []

        def whole(bench: Any, *spec: Any) -> Any:
            begin = DistillationTrainer.train

            def training(self: Any, *arguments: Any, **more: Any) -> Any:
                done = begin(self, *arguments, **more)
                seen.append(any(hasattr(p, "full_tensor") for p in self.model.parameters()))
                self.whole_model()
                return done

            DistillationTrainer.train = training  # type: ignore[method-assign]
            try:
                return train(bench, *spec)
            finally:
                DistillationTrainer.train = begin  # type: ignore[method-assign]

        several.train = whole
        main(tmp_path, METHODS)
        assert all(seen) and len(seen) == len(METHODS)

    run_ranks(2, sharded, tmp_path)
    one, first, second = (json.loads((tmp_path / f"out-{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    for name in METHODS:
        assert first[name]["losses"] == pytest.approx(one[name]["losses"], rel=1e-3, abs=1e-4), name
        assert first[name]["weights"] == pytest.approx(one[name]["weights"], rel=1e-3, abs=5e-3), name
        assert first[name]["weights"] == second[name]["weights"]
        assert first[name]["states"] == second[name]["states"]
    assert torch.distributed.is_available()
