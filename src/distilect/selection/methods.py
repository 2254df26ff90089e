"""Methods: named choices of the three selectors and of the kinds of knowledge, and a config's changes to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from distilect.config import MethodConfig
from distilect.errors import MethodError, did_you_mean
from distilect.knowledge import Knowledge, Layout, build_knowledge
from distilect.knowledge.registry import KNOWLEDGE
from distilect.options import construct
from distilect.selection.base import LossWeights, RowSelector, Selector, TeacherSelector
from distilect.selection.keep import stages as keep_stages
from distilect.selection.registry import LOSS_WEIGHTS, ROWS, TEACHERS

# key of a method in a config → classes by name
METHOD_PARTS: dict[str, Mapping[str, Any]] = {
    "rows": ROWS,
    "teachers": TEACHERS,
    "loss_weights": LOSS_WEIGHTS,
    "knowledge": KNOWLEDGE,
}

Spec = Mapping[str, Any] | str

_ALL_KINDS: dict[str, Any] = {"labels": {}, "response": {}, "feature": {}, "relation": {}}
_LABELS_AND_RESPONSE: dict[str, Any] = {"labels": {}, "response": {}}


@dataclass(frozen=True)
class Preset:
    """A method: a named choice of the three selectors and of the kinds of knowledge, nothing more; or a sequence of such choices.

    `teachers` is None where no teacher is asked. By default labels weigh 1 - alpha, the response alpha,
    and every other kind 1. `stages` suits the stages to the models: (layout, whether the
    validation split has labels) → name → `StageConfig`, as plain values.
    """

    name: str
    summary: str
    reference: str
    rows: Spec = "all"
    teachers: Spec | None = "uniform"
    knowledge: Mapping[str, Any] = field(default_factory=lambda: dict(_LABELS_AND_RESPONSE))
    loss_weights: Spec = "fixed"
    alpha: float = 0.5
    stages: Callable[[Layout, bool], Mapping[str, Any]] | None = None


_PRESETS = (
    Preset("finetune", "gold labels only, no teacher", "", teachers=None, knowledge={"labels": {}}, alpha=0.0),
    Preset("kd", "one teacher, labels + response", "Hinton et al., 2015, arXiv 1503.02531", teachers="single"),
    Preset("uniform", "all teachers, equal weights", "U-Ensemble; Yuan et al., 2021, arXiv 2012.06048"),
    Preset(
        "random-single",
        "one random teacher per step",
        "Rand-Single-Ensemble; Yuan et al., 2021",
        teachers="random-single",
    ),
    Preset("weighted", "fixed weights by validation score", "W-Ensemble; Yuan et al., 2021", teachers="weighted"),
    Preset("logistic", "weights by logistic regression", "LR-Ensemble; Yuan et al., 2021", teachers="logistic"),
    Preset(
        "best-single",
        "per row, the teacher nearest to the label",
        "Best-Single-Ensemble; Yuan et al., 2021",
        teachers="best-single",
    ),
    Preset(
        "confidence",
        "per row, weights by the teachers' cross-entropy",
        "CA-MKD; Zhang et al., 2022, arXiv 2201.00007",
        teachers="confidence",
    ),
    Preset("entropy", "per row, weights by the teachers' entropy", "", teachers="entropy"),
    Preset("gate", "per row, weights by a classifier of the best teacher", "", teachers="gate"),
    Preset("alignment", "per row, weights by the effect on the loss of other labelled rows", "", teachers="alignment"),
    Preset(
        "adaptive",
        "rows, teachers and labels by one credit, spent where an operation gains most",
        "",
        rows="adaptive",
        teachers="alignment",
        loss_weights="alignment",
    ),
    Preset(
        "rlkd",
        "per row, teachers picked by a reinforced policy",
        "RL-KD; Yuan et al., 2021, arXiv 2012.06048",
        teachers="reinforced-virtual",
    ),
    Preset(
        "rlkd-published",
        "RL-KD as far as the paper could be read",
        "Yuan et al., 2021, with reconstructions",
        teachers="reinforced",
    ),
    Preset(
        "dynamic-teacher",
        "per row, the smaller teacher where the student is uncertain",
        "DynamicKD, arm 1; Li et al., 2021, arXiv 2109.11295",
        teachers="dynamic",
    ),
    Preset(
        "dynamic-data",
        "one teacher, asked on the rows where the student is uncertain",
        "DynamicKD, arm 2",
        rows="uncertainty",
        teachers="single",
    ),
    Preset(
        "dynamic-objective",
        "one teacher, outputs where the student is certain, hidden states where not",
        "DynamicKD, arm 3",
        teachers="single",
        loss_weights="uncertainty",
        knowledge={"labels": {}, "response": {}, "feature": {"tokens": "cls", "normalize": True}},
    ),
    Preset(
        "pkd",
        "one teacher, labels + response + hidden states",
        "Patient KD; Sun et al., 2019, arXiv 1908.09355",
        teachers="single",
        knowledge={"labels": {}, "response": {}, "feature": {"tokens": "cls", "normalize": True}},
    ),
    Preset(
        "akskd",
        "one teacher, an actor-critic weighs the four kinds",
        "AKSKD; Wang et al., 2022, arXiv 2302.00444",
        teachers="single",
        knowledge=_ALL_KINDS,
        loss_weights="actor-critic",
    ),
    Preset(
        "akskd-hard",
        "one teacher, an actor-critic picks a subset of the four kinds",
        "AKSKD; Wang et al., 2022",
        teachers="single",
        knowledge=_ALL_KINDS,
        loss_weights={"name": "actor-critic", "action": "hard"},
    ),
    Preset(
        "all-ones",
        "one teacher, all four kinds with weight 1, brought to one size",
        "control of AKSKD; Wang et al., 2022",
        teachers="single",
        knowledge=_ALL_KINDS,
        loss_weights={"name": "all-ones", "balance": "labels"},
    ),
    Preset(
        "random-soft",
        "one teacher, random weights of the four kinds",
        "Random-Soft; Wang et al., 2022",
        teachers="single",
        knowledge=_ALL_KINDS,
        loss_weights={"name": "random-soft", "balance": "labels"},
    ),
    Preset(
        "random-hard",
        "one teacher, a random subset of the four kinds",
        "Random-Hard; Wang et al., 2022",
        teachers="single",
        knowledge=_ALL_KINDS,
        loss_weights={"name": "random-hard", "balance": "labels"},
    ),
    Preset("keep", "hidden states and attention first, then outputs and labels", "", stages=keep_stages),
)


def presets() -> dict[str, Preset]:
    """All methods by name."""
    return {preset.name: preset for preset in _PRESETS}


def get_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        MethodError: there is none; names the nearest.
    """
    known = presets()
    if name not in known:
        raise MethodError(f"no method is called {name!r}; known: {', '.join(known)}.{did_you_mean(name, known)}")
    return known[name]


@dataclass
class Method:
    """A method, built for given models: what the trainer evaluates.

    Attributes:
        rows, teachers, loss_weights: the three selectors; `teachers` is None where no teacher is asked.
        knowledge: the kinds in the order of the M axis.
        teacher_cls: per teacher, its last layer's signal (`cls.L`) for selectors that need it; empty where none does.
    """

    name: str
    rows: RowSelector
    teachers: TeacherSelector | None
    loss_weights: LossWeights
    knowledge: list[Knowledge]
    teacher_cls: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(kind.name for kind in self.knowledge)

    @property
    def selectors(self) -> dict[str, Selector]:
        """The three by the name of their axis, those that exist."""
        named = {"rows": self.rows, "teachers": self.teachers, "loss_weights": self.loss_weights}
        return {axis: selector for axis, selector in named.items() if selector is not None}

    def fields(self, num_teachers: int) -> list[list[str]]:
        """Per teacher, the signals that the kinds of knowledge need besides logits, without repeats."""
        return [
            list(dict.fromkeys(f for kind in self.knowledge for f in kind.teacher_fields(k)))
            for k in range(num_teachers)
        ]

    def all_fields(self, num_teachers: int) -> list[list[str]]:
        """The same with those that selectors look at between steps."""
        fields = self.fields(num_teachers)
        for of_teacher, cls in zip(fields, self.teacher_cls, strict=False):
            if cls not in of_teacher:
                of_teacher.append(cls)
        return fields


def asks_teachers(config: MethodConfig) -> bool:
    """Whether the method ever needs a teacher."""
    return config.teachers is not None or get_preset(config.name).teachers is not None


def build_teacher_selector(config: MethodConfig) -> TeacherSelector | None:
    """The teacher selector of a method, built first: what it keeps decides which teachers are scored."""
    if not asks_teachers(config):
        return None
    return construct(TEACHERS, merged(config.teachers, get_preset(config.name).teachers), "teacher selector")


def build_method(config: MethodConfig, layout: Layout, teachers: TeacherSelector | None) -> Method:
    """The whole method for models of that layout.

    Raises:
        MethodError: an unknown name or option, or parts that do not fit together.
    """
    preset = get_preset(config.name)
    kinds = kinds_of(config, with_teachers=teachers is not None)
    method = Method(
        name=config.name,
        rows=construct(ROWS, merged(config.rows, preset.rows), "row selector"),
        teachers=teachers,
        loss_weights=construct(LOSS_WEIGHTS, loss_weights_of(config, kinds), "loss-weight selector"),
        knowledge=build_knowledge(kinds, layout),
    )
    if any(selector.needs.teacher_cls for selector in method.selectors.values()):
        method.teacher_cls = tuple(f"cls.{depth}" for depth in layout.teacher_layers)
    return method


def merged(given: Spec | None, preset: Spec | None) -> dict[str, Any]:
    """A selector's spec: the preset's options with the given ones in them. Another name replaces the preset's selector."""
    base = {"name": preset} if isinstance(preset, str) else dict(preset or {})
    own = {"name": given} if isinstance(given, str) else dict(given or {})
    return base | own if own.get("name", base.get("name")) == base.get("name") else own


def kinds_of(config: MethodConfig, *, with_teachers: bool) -> dict[str, dict[str, Any]]:
    """Kind of knowledge → options: the preset's with the config's in them, and the config's temperature in the response.

    `KIND: false` removes a kind of the preset.
    """
    kinds = {name: dict(options) for name, options in get_preset(config.name).knowledge.items()}
    for name, options in (config.knowledge or {}).items():
        if options is False:
            kinds.pop(name, None)
        elif options is None or isinstance(options, Mapping):
            kinds[name] = kinds.get(name, {}) | dict(options or {})
        else:
            raise MethodError(
                f"knowledge: {name} is {options!r}, expected its options, such as {name}: {{}}, or {name}: false to leave it out"
            )
    if with_teachers and set(kinds) == {"labels"}:
        raise MethodError(
            f"method {config.name!r} selects teachers but copies labels only: add knowledge that teachers have, "
            "such as knowledge: {response: {}}"
        )
    if not with_teachers and set(kinds) != {"labels"}:
        others = sorted(set(kinds) - {"labels"})
        raise MethodError(f"method {config.name!r} asks no teacher but copies {others}: set teachers: uniform")
    if config.temperature is not None:
        if "response" not in kinds:
            raise MethodError(f"temperature is set, but method {config.name!r} copies no response knowledge")
        for name in kinds.keys() & {"response", "divergence"}:
            kinds[name]["temperature"] = config.temperature
    return kinds


def loss_weights_of(config: MethodConfig, kinds: Mapping[str, Any]) -> Spec:
    """The spec of the loss weights. `fixed` ones are 1 - alpha for labels and alpha for the response where they name no weight."""
    preset = get_preset(config.name)
    options = merged(config.loss_weights, preset.loss_weights)
    if options.get("name") != "fixed":
        if config.alpha is not None:
            raise MethodError(
                f"alpha is set, but the loss-weight selector is {options.get('name')!r}, which weighs by itself"
            )
        return options
    if config.alpha is not None and "response" not in kinds:
        raise MethodError(f"alpha is set, but method {config.name!r} copies no response knowledge that it could weigh")
    alpha = preset.alpha if config.alpha is None else config.alpha
    default = {"labels": 1 - alpha, "response": alpha}
    weights = {kind: weight for kind, weight in default.items() if kind in kinds}
    return options | {"weights": weights | dict(options.get("weights") or {})}
