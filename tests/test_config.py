"""The configuration: what is written reads back equal, what is wrong is told in a line, and nothing else gets out."""

from __future__ import annotations

import math
import shlex
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distilect.config import (
    FinetuneConfig,
    RunConfig,
    TeacherConfig,
    apply_override,
    dump_config,
    load_config,
    parse_config,
)
from distilect.errors import ConfigError

MINIMAL: dict[str, Any] = {"data": {"train": "train.csv"}, "student": "bert"}

# Fewer examples than usual: each one is a whole config.
same_folder = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(folder: Path, content: str | bytes) -> Path:
    file = folder / "config.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return file


def told(raw: dict[str, Any]) -> list[str]:
    """The lines of the error that `raw` leads to."""
    with pytest.raises(ConfigError) as caught:
        parse_config(raw)
    return str(caught.value).splitlines()


# ---- any valid config ------------------------------------------------------------------------------------------------

words = st.text(min_size=1, max_size=12)
names = st.text(
    st.characters(blacklist_characters="/\\\0", blacklist_categories=("Cs",)), min_size=1, max_size=12
).filter(lambda name: name not in (".", ".."))
positive = st.floats(min_value=1e-8, max_value=1e8)
shares = st.floats(min_value=0, max_value=1)
counts = st.integers(1, 10**6)
seeds = st.integers(-(2**31), 2**63 - 1)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
options = st.dictionaries(words, plain, max_size=3)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping with any of these keys."""
    return st.fixed_dictionaries({}, optional=fields)


finetunes = st.builds(
    lambda required, rest: required | rest,
    st.fixed_dictionaries({"init": words}),
    some(epochs=positive, learning_rate=positive, batch_size=counts, seed=seeds),
)
teachers = words | st.builds(
    lambda source, rest: source | rest,
    st.fixed_dictionaries({"path": words})
    | st.fixed_dictionaries({"finetune": finetunes})
    | st.fixed_dictionaries({"table": words}),
    some(name=words, labels=st.lists(words, max_size=3), max_length=st.integers(2, 512)),
)
methods = words | some(
    name=words,
    alpha=shares,
    temperature=positive,
    rows=options | words,
    teachers=options | words,
    knowledge=options,
    loss_weights=options | words,
)
configs = st.builds(
    lambda required, rest: parse_config(required | rest),
    st.fixed_dictionaries(
        {
            "data": some(
                train=words,
                dev=words,
                extra=words,
                text=words | st.lists(words, max_size=2),
                label=words,
                validation_size=st.floats(0, 1e6),
                quoting=st.booleans(),
                max_train_rows=counts,
            ),
            "student": words
            | st.builds(lambda a, b: a | b, st.fixed_dictionaries({"init": words}), some(tokenizer=words)),
        }
    ),
    some(
        name=names,
        task=some(kind=st.sampled_from(["auto", "classification", "regression"]), labels=st.lists(words, max_size=3)),
        teachers=st.lists(teachers, max_size=3),
        method=methods,
        baselines=st.lists(methods, max_size=3),
        train=some(
            epochs=positive, batch_size=counts, warmup_ratio=shares, precision=st.sampled_from(["fp32", "bf16"])
        ),
        signals=some(store=words, live=st.booleans(), disk_budget_gb=positive),
        seed=seeds,
        output=words,
    ),
)


@same_folder
@given(config=configs)
def test_a_written_config_reads_back_as_the_same_run(config: RunConfig, tmp_path: Path) -> None:
    text = dump_config(config)
    again = load_config(write(tmp_path, text))
    assert again == config
    assert dump_config(again) == text


@pytest.mark.parametrize(
    "text", ["\x85", "a\u2028b", "\r\n", " a ", "yes", "1e5", "~", "=", "été 模型", "\ufeff", "\x07"]
)
def test_odd_texts_survive_a_written_config(text: str, tmp_path: Path) -> None:
    config = parse_config({"data": {"train": text}, "student": text, "task": {"labels": [text, "no"]}})
    assert load_config(write(tmp_path, dump_config(config))) == config


def test_a_written_config_keeps_letters_of_other_scripts_readable() -> None:
    assert "模型" in dump_config(parse_config({"data": {"train": "模型"}, "student": "s"}))


@given(epochs=positive, seed=seeds, size=counts)
def test_an_override_is_what_the_file_would_have_said(epochs: float, seed: int, size: int) -> None:
    raw = {"data": {"train": "t"}, "student": "s", "train": {"epochs": 1}}
    for override in (f"train.epochs={epochs!r}", f"seed={seed}", f"train.batch_size={size}"):
        apply_override(raw, override)
    wanted = {"data": {"train": "t"}, "student": "s", "train": {"epochs": epochs, "batch_size": size}, "seed": seed}
    assert parse_config(raw) == parse_config(wanted)


@pytest.mark.parametrize(
    "file",  # those of comparisons are read in tests/experiments/test_trials.py
    sorted(f for f in Path(__file__).parents[1].glob("configs/**/*.yaml") if f.parent.name != "compare"),
    ids=lambda f: f.stem,
)
def test_every_config_in_the_repository_is_valid(file: Path) -> None:
    load_config(file)


# ---- anything else ---------------------------------------------------------------------------------------------------


@same_folder
@given(content=st.binary(max_size=200) | st.text(string.printable, max_size=200) | st.text(max_size=100))
def test_a_file_of_anything_is_a_config_or_a_config_error(content: str | bytes, tmp_path: Path) -> None:
    try:
        load_config(write(tmp_path, content))
    except ConfigError as error:
        assert str(error)


keys = st.sampled_from([*RunConfig.model_fields, *TeacherConfig.model_fields, *FinetuneConfig.model_fields]) | words
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.dates() | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | st.integers() | st.none(), inner, max_size=4),
    max_leaves=20,
)


@same_folder
@given(raw=st.dictionaries(keys | st.integers(), junk, max_size=6))
def test_a_mapping_of_anything_is_a_config_or_a_config_error(raw: dict[Any, Any], tmp_path: Path) -> None:
    try:
        config = load_config(write(tmp_path, yaml.safe_dump(MINIMAL | raw)))
    except ConfigError as error:
        assert all(len(line) < 1000 for line in str(error).splitlines())
    else:
        assert parse_config(yaml.safe_load(dump_config(config))) == config


@given(
    override=st.text(max_size=30)
    | st.builds(
        "{}={}".format, st.lists(keys | st.sampled_from(["0", "1", "²", "9" * 5000]), min_size=1).map(".".join), words
    )
)
def test_an_override_of_anything_applies_or_is_a_config_error(override: str) -> None:
    raw: dict[str, Any] = {**MINIMAL, "data": {"train": "t"}, "teachers": ["a", {"path": "b"}], "baselines": ["kd", 5]}
    try:
        apply_override(raw, override)
        parse_config(raw)
    except ConfigError as error:
        assert str(error)


@pytest.mark.parametrize("content", ["[" * 5000, "a: " + "{" * 5000, "&a [*a]", "data: &a {train: *a}\nstudent: s"])
def test_nesting_without_an_end_is_a_config_error(content: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_config(write(tmp_path, content))


@pytest.mark.parametrize("value", [".inf", ".nan", "-.inf"])
@pytest.mark.parametrize(
    "key", ["train.epochs", "train.weight_decay", "data.validation_size", "method.alpha", "method.rows.x"]
)
def test_a_number_that_is_none_would_train_for_ever_or_to_nothing(key: str, value: str) -> None:
    raw: dict[str, Any] = {**MINIMAL, "data": {"train": "t"}}
    apply_override(raw, f"{key}={value}")
    with pytest.raises(ConfigError, match="finite"):
        parse_config(raw)


def test_a_config_of_code_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "name: !!python/object/apply:os.system ['touch " + str(tmp_path / "ran") + "']")
    with pytest.raises(ConfigError, match="not readable YAML"):
        load_config(file)
    assert not (tmp_path / "ran").exists()


# ---- numbers, booleans and marks as text -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written", ["2024", "007", "1_000", "0x1F", "-1", "1.10", ".5", "1e5", "12:30", "2024-11-27", "2024-11-27 10:00:00"]
)
def test_numbers_and_dates_are_taken_as_text_as_they_are_written(written: str, tmp_path: Path) -> None:
    file = write(
        tmp_path,
        f"name: {written}\ndata: {{train: t, text: {written}, label: {written}}}\nstudent: s\n"
        f"task: {{labels: [{written}, b]}}\nteachers: [{{path: a, labels: [{written}, b]}}]",
    )
    config = load_config(file)
    assert config.name == config.data.text == config.data.label == written
    assert config.task.labels == config.teachers[0].labels == [written, "b"]
    assert load_config(write(tmp_path, dump_config(config))) == config
    file.write_text(file.read_text().replace(f"name: {written}", "name: x"))
    assert load_config(file, [f"name={written}", f"task.labels=[{written}, b]"]) == config


def test_numbers_stay_numbers_where_numbers_are_expected(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "data: {train: t, max_train_rows: 010, quoting: no}\nstudent: s\ntrain: {learning_rate: 1.50e-5, epochs: 2}\n"
        "method: {rows: {name: random-plan, ratio: 0.50, n: 7, flag: yes}}",
    )
    config = load_config(file)
    assert (config.data.max_train_rows, config.train.learning_rate, config.data.quoting) == (8, 1.5e-5, False)
    assert config.method.rows == {"name": "random-plan", "ratio": 0.5, "n": 7, "flag": True}
    assert {type(value) for value in config.method.rows.values()} == {str, float, int, bool}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("line", "where", "got", "remedy"),
    [
        ("task: {labels: [no, yes]}", "task.labels", "false, true", "labels: ['no', 'yes']"),
        ("task: {labels: [On, off]}", "task.labels", "true, false", "labels: ['no', 'yes']"),
        ("task: {labels: [maybe, no]}", "task.labels", "false", "labels: ['no', 'yes']"),
        ("task: {labels: [null, a]}", "task.labels", "null", "labels: ['no', 'yes']"),
        ("teachers: [a, {path: b, labels: [no, yes]}]", "teachers.1.labels", "false, true", "labels: ['no', 'yes']"),
        ("name: on", "name", "true", "name: 'no'"),
    ],
)
def test_booleans_where_text_is_expected_are_one_line_with_a_remedy_that_works(
    line: str, where: str, got: str, remedy: str, tmp_path: Path
) -> None:
    base = "data: {train: t}\nstudent: s\n"
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, base + line))
    (message,) = str(caught.value).splitlines()
    assert message.startswith(f"'{where}': got {got}, expected text.") and f"as in {remedy}" in message
    argument = message.rpartition("on the command line ")[2]
    assert argument == f'"{where}={remedy.partition(": ")[2]}"'
    (override,) = shlex.split(argument)  # as a shell passes it on
    fixed = load_config(write(tmp_path, base + line), [override])
    assert fixed.name == "no" or ["no", "yes"] in [fixed.task.labels, *(t.labels for t in fixed.teachers)]


def test_booleans_as_keys_get_a_line_too() -> None:
    (line,) = told({**MINIMAL, "data": {"train": "t"}, "method": {"knowledge": {False: 1, "response": 1}}})
    assert line.startswith("'method.knowledge': got false, expected text.") and "knowledge: {'no': …}" in line


def test_booleans_in_overrides_get_the_same_line() -> None:
    raw: dict[str, Any] = {**MINIMAL, "data": {"train": "t"}, "teachers": [{"path": "a"}]}
    for override in ("task.labels=[no,yes]", "teachers.0.labels=[no,yes]", "data.text=[no,yes]", "name=no"):
        apply_override(raw, override)
    assert [line.partition(",")[0] for line in told(raw)] == [
        "'name': got false",
        "'task.labels': got false",
        "'data.text': got false",
        "'teachers.0.labels': got false",
    ]


@pytest.mark.parametrize("mark", [*list("|,;\t:^~#*&!%@-[{ '>"), "\x01"])
def test_a_delimiter_is_given_as_it_is(mark: str, tmp_path: Path) -> None:
    raw: dict[str, Any] = {**MINIMAL, "data": {"train": "t"}}
    apply_override(raw, f"data.delimiter={mark}")
    config = parse_config(raw)
    assert config.data.delimiter == (None if mark == "~" else mark)
    assert load_config(write(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize(("written", "value"), [("'~'", "~"), ("\\t", "\t"), ("'|'", "|"), ("null", None), ("x", "x")])
def test_a_delimiter_may_be_quoted_or_a_tab(written: str, value: str | None) -> None:
    raw: dict[str, Any] = {**MINIMAL, "data": {"train": "t"}}
    apply_override(raw, f"data.delimiter={written}")
    assert parse_config(raw).data.delimiter == value


@pytest.mark.parametrize("delimiter", ["", "||", '"', "\n"])
def test_what_is_no_delimiter_is_refused(delimiter: str) -> None:
    (line,) = told({**MINIMAL, "data": {"train": "t", "delimiter": delimiter}})
    assert line.startswith("'data.delimiter': expected one character")


# ---- what is told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ({"trian": {}}, "unknown key 'trian': did you mean 'train'?"),
        ({"train": {"epoch": 1}}, "unknown key 'train.epoch': did you mean 'epochs'?"),
        (
            {"teachers": [{"path": "a", "max_lenght": 8}]},
            "unknown key 'teachers.0.max_lenght': did you mean 'max_length'?",
        ),
        (
            {"teachers": [{"finetune": {"init": "a", "lerning_rate": 1}}]},
            "unknown key 'teachers.0.finetune.lerning_rate': did you mean 'learning_rate'?",
        ),
        (
            {"train": {"epochs": "many"}},
            "'train.epochs': Input should be a valid number, unable to parse string as a number, got 'many'",
        ),
        ({"train": {"epochs": 0}}, "'train.epochs': Input should be greater than 0, got 0"),
        ({"method": {"alpha": 2}}, "'method.alpha': Input should be less than or equal to 1, got 2"),
        ({"data": {"text": {}}}, "'data.text': Input should be a valid string or Input should be a valid list, got {}"),
        (
            {"teachers": [{"name": "a"}]},
            "'teachers.0': a teacher has exactly one of path, table, finetune, endpoint; got none, got {'name': 'a'}",
        ),
        ({"name": "a/b"}, "'name': String should match pattern '^[^/\\\\\\x00]+$', got 'a/b'"),
        ({"name": ".."}, "'name': expected the name of a folder, got '..'"),
        ({"train": 3}, "'train': Input should be a valid dictionary or instance of TrainConfig, got 3"),
    ],
)
def test_each_fault_is_one_line_with_place_and_remedy(raw: dict[str, Any], line: str) -> None:
    assert told(MINIMAL | raw) == [line]


def test_a_key_like_no_other_is_told_all_that_there_are() -> None:
    assert told({**MINIMAL, "zzz": 1})[0].startswith(
        "unknown key 'zzz': known: backbone, baselines, budget, data, data_dir, generation, method, name"
    )


def test_all_faults_are_told_at_once() -> None:
    assert told({"train": {"epochs": -1, "seeds": 3}}) == [
        "'data' is missing",
        "'student' is missing",
        "'train.epochs': Input should be greater than 0, got -1",
        "unknown key 'train.seeds': known: " + ", ".join(sorted(type(parse_config(MINIMAL).train).model_fields)),
    ]


def test_a_long_value_is_not_repeated_in_full() -> None:
    assert len(told({**MINIMAL, "train": ["x" * 1000] * 1000})[0]) < 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected a mapping of settings, got NoneType"),
        ("- a", "expected a mapping of settings, got list"),
        ("a: [", "not readable YAML"),
        (b"name: \xff", "not readable YAML"),
    ],
)
def test_a_file_that_is_no_config_is_told_by_name(content: str | bytes, message: str, tmp_path: Path) -> None:
    file = write(tmp_path, content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(file)
    assert str(file) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_and_a_folder_are_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config file at .*none"):
        load_config(tmp_path / "none")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path)


# ---- overrides -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("method.alpha=0.3", ("method", "alpha"), 0.3),
        ("method.rows.share=0.5", ("method", "rows", "share"), 0.5),
        ("student.max_length=64", ("student", "max_length"), 64),
        ("teachers.0.max_length=64", ("teachers", 0, "max_length"), 64),
        ("teachers.1=c", ("teachers", 1, "path"), "c"),
        ("baselines.0.alpha=0.1", ("baselines", 0, "alpha"), 0.1),
        ("data.text=[a, b]", ("data", "text"), ["a", "b"]),
        ("data.dev=null", ("data", "dev"), None),
        ("train.learning_rate=1e-4", ("train", "learning_rate"), 1e-4),
        ("name=a=b", ("name",), "a=b"),
    ],
)
def test_an_override_reaches_into_short_forms_and_lists(override: str, path: tuple[Any, ...], value: Any) -> None:
    raw: dict[str, Any] = {
        "data": {"train": "t", "dev": "d"},
        "student": "a[layers=1]",
        "teachers": ["a", "b"],
        "method": {"name": "kd", "rows": "random"} if "rows" in override else "kd",
        "baselines": ["finetune"],
    }
    apply_override(raw, override)
    found: Any = parse_config(raw).model_dump()
    for key in path:
        found = found[key]
    assert found == value
    assert parse_config(raw).student.init == "a[layers=1]"
    assert [b.name for b in parse_config(raw).baselines] == ["finetune"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "expected key=value, such as train.epochs=5"),
        ("=5", "expected key=value"),
        ("a=[", "the value is not YAML"),
        ("teachers.5.path=a", "'5' is no index of that list; it has 0 to 0"),
        ("teachers.x=a", "'x' is no index of that list"),
        ("baselines.0=kd", "it has none, it is empty"),
        ("seed.x=1", "seed holds a single value, it has no parts"),
        ("teachers.0.path.x=1", "teachers.0.path holds a single value"),
    ],
)
def test_an_override_that_fits_nowhere_is_told(override: str, message: str) -> None:
    raw: dict[str, Any] = {**MINIMAL, "teachers": [{"path": "a"}], "baselines": [], "seed": 1}
    with pytest.raises(ConfigError) as caught:
        apply_override(raw, override)
    assert f"override {override!r}" in str(caught.value)
    assert message in str(caught.value)


def test_a_config_cannot_be_changed_behind_its_back() -> None:
    config = parse_config(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
    assert math.isclose(config.train.epochs, 3.0)


# ---- delimiters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["|", ",", ";", "#", " ", "&&", "- ", "[", "*", ">"])
def test_signs_are_taken_as_they_are_for_a_delimiter(text: str) -> None:
    for quoted in (text, f"'{text}'", f'"{text}"'):
        raw: dict[str, Any] = {"data": {"train": "t.csv"}, "student": "s"}
        apply_override(raw, f"data.label_delimiter={quoted}")
        assert parse_config(raw).data.label_delimiter == text


def test_a_tab_is_written_as_backslash_t_and_nothing_is_no_delimiter() -> None:
    raw: dict[str, Any] = {"data": {"train": "t.csv"}, "student": "s"}
    apply_override(raw, r"data.label_delimiter=\t")
    assert parse_config(raw).data.label_delimiter == "\t"
    apply_override(raw, "data.label_delimiter=null")
    assert parse_config(raw).data.label_delimiter is None
    with pytest.raises(ConfigError, match="expected what stands between two labels, in quotes"):
        parse_config({"data": {"train": "t.csv", "label_delimiter": ""}, "student": "s"})


@pytest.mark.parametrize(
    "text, message",
    [
        ("seed: 1\nseed: 2\n", "the key 'seed' is given twice, in line 2 again"),
        (
            "train:\n  epochs: 1\n  learning_rate: 1e-4\n  epochs: 2\n",
            "the key 'epochs' is given twice, in line 4 again",
        ),
    ],
)
def test_a_key_that_is_given_twice_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """YAML's own reader keeps the last one silently."""
    file = tmp_path / "twice.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(file)


def test_an_override_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "once.yaml"
    file.write_text("data: {train: t.csv}\nstudent: a\n")
    assert load_config(file, ["seed=1", "train.epochs=2"]).seed == 1
    with pytest.raises(ConfigError, match="override 'seed=2': seed is given twice"):
        load_config(file, ["seed=1", "train.epochs=2", "seed=2"])


def test_merge_keys_of_yaml_may_be_set_again(tmp_path: Path) -> None:
    file = tmp_path / "merged.yaml"
    file.write_text("data: {train: t.csv}\nstudent: a\ntrain: {<<: {epochs: 1}, epochs: 3}\n")
    assert load_config(file).train.epochs == 3


def test_the_backbone_is_named_once() -> None:
    raw = MINIMAL | {
        "backbone": "org/base",
        "teachers": [
            {"name": "a", "finetune": {"init": "backbone"}},
            {"name": "b", "finetune": {"init": "backbone[layers=4]"}},
        ],
        "student": "backbone[layers=3]",
    }
    config = parse_config(raw)
    assert [t.finetune and t.finetune.init for t in config.teachers] == ["org/base", "org/base[layers=4]"]
    assert config.student.init == "org/base[layers=3]" and config.backbone is None
    assert parse_config(raw | {"student": {"init": "backbones"}}).student.init == "backbones"
    (line,) = told(MINIMAL | {"backbone": "org/base"})
    assert "no teacher or student starts from `backbone`, so org/base would not be used" in line
