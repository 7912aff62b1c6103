"""Experiment files: chains, overrides, and every way to get them wrong."""

import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from distill3d.config.builder import build
from distill3d.config.catalog import experiment_files, experiments, find_experiment, questions
from distill3d.config.compare import differences, disagreements
from distill3d.config.files import read
from distill3d.config.plain import as_plain, from_plain
from distill3d.config.registry import REGISTRIES, component, components
from distill3d.config.schema import Experiment
from distill3d.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    depth: int = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyConfig:
    width: int = 8
    rate: float = 0.5
    mode: Literal["plain", "fancy"] = "plain"
    kernel: tuple[int, int, int] = (3, 3, 3)
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width={self.width} is too small; accepted: 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherConfig:
    height: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PairConfig:
    layer: str
    weight: float = 1.0

    def __post_init__(self):
        if self.weight < 0:
            raise ValueError(f"weight={self.weight} is negative; accepted: 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class PairsConfig:
    pairs: dict[str, PairConfig] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)  # plain values need no builder


@dataclass(frozen=True, kw_only=True, slots=True)
class NestingConfig:
    child: object = component("strategy", default="toy")


@dataclass(frozen=True, kw_only=True, slots=True)
class TogetherConfig:
    parts: dict = components("strategy", default="none")


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """Every registry knows `toy` and `other` for the length of a test."""
    for registry in REGISTRIES.values():
        monkeypatch.setattr(registry, "_entries", {})
        registry.register("toy", config=ToyConfig)(type("Toy", (), {}))
        registry.register("other", config=OtherConfig)(type("Other", (), {}))
    REGISTRIES["loss"].register("overlap", config=OtherConfig)(type("Overlap", (), {}))
    REGISTRIES["neuron"].register("linear", config=OtherConfig)(type("Linear", (), {}))
    for kind in ("teacher", "strategy"):
        REGISTRIES[kind].register("none", config=OtherConfig)(type("None_", (), {}))


@pytest.fixture
def write(tmp_path):
    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write_file


BASE = "question: q\ndata: {name: toy}\nstudent: {name: toy, width: 16, mode: fancy}\n"


def load(path: Path, *overrides: str) -> Experiment:
    return build(read(find_experiment(path), overrides), Experiment)


def problems(path: Path, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(path, *overrides)
    return caught.value.lines


def test_the_files_name_is_the_experiments_name(write):
    assert load(write("mine.yaml", BASE)).name == "mine"


def test_a_child_inherits_and_merges_mappings(write):
    write("base.yaml", BASE)
    child = load(write("child.yaml", "base: base.yaml\nstudent: {width: 4}\n"))
    assert (child.student.config.width, child.student.config.mode) == (4, "fancy")


def test_a_changed_name_drops_the_parents_settings(write):
    write("base.yaml", BASE)
    child = load(write("child.yaml", "base: base.yaml\nstudent: {name: other}\n"))
    assert child.student.name == "other"
    assert child.student.config == OtherConfig()


def test_a_loss_may_say_the_name_it_has_anyway(write):
    write("base.yaml", f"{BASE}losses: {{overlap: {{height: 7}}}}\n")
    for text in ("{}", "{name: overlap}"):
        child = load(write("child.yaml", f"base: base.yaml\nlosses: {{overlap: {text}}}\n"))
        assert child.losses["overlap"].config == OtherConfig(height=7)


def test_a_changed_name_on_the_command_line_drops_the_files_settings(write):
    loaded = load(write("base.yaml", BASE), "student.name=other", "--student.height=3")
    assert loaded.student.config == OtherConfig(height=3)


def test_lists_replace(write):
    write("base.yaml", "data: {name: toy, kernel: [1, 2, 3]}\nstudent: {name: toy}\n")
    assert load(write("child.yaml", "base: base.yaml\ndata: {kernel: [5, 5, 5]}\n")).data.config.kernel == (5, 5, 5)


@pytest.mark.parametrize("form", ["student.width=32", "--student.width=32"])
def test_both_forms_of_an_override_mean_the_same(write, form):
    assert load(write("base.yaml", BASE), form).student.config.width == 32


def test_overrides_win_over_the_file(write):
    assert (
        load(write("base.yaml", BASE + "trainer: {steps: 10, validate_every: 5}\n"), "trainer.steps=20").trainer.steps
        == 20
    )


def test_a_chain_that_goes_in_a_circle_is_refused(write):
    write("a.yaml", "base: b.yaml\n")
    assert "circle" in problems(write("b.yaml", "base: a.yaml\n"))[0]


def test_what_runs_left_under_results_is_no_experiment(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("experiments", "experiments/results/lr/0000", "experiments/own"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    write("experiments/own/mine.yaml", BASE)
    write("experiments/results/tuned.yaml", "arms: {}\n")
    write("experiments/results/lr/0000/config.yaml", BASE)
    files = experiment_files()
    assert "mine" in files
    assert not {"tuned", "config"} & set(files)


def test_a_missing_base_is_named(write):
    assert "nowhere.yaml: no such experiment file" in problems(write("a.yaml", "base: nowhere.yaml\n"))[0]


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n", "a: [1\n", "a: 1\na: 2\n", "\x00"])
def test_what_is_no_mapping_is_one_line(write, text):
    lines = problems(write("bad.yaml", text))
    assert len(lines) == 1
    assert "bad.yaml" in lines[0]
    assert "\n" not in lines[0]


def test_all_problems_are_told_at_once_each_with_file_and_key(write):
    write("base.yaml", BASE + "trainer: {step: 3}\n")
    lines = problems(
        write("child.yaml", "base: base.yaml\nstudent: {widht: 3}\ndata: {kernel: [1, x, 3]}\n"),
        "seed=-1",
        "strategy.name=tuby",
    )
    joined = "\n".join(lines)
    assert "base.yaml: trainer.step: unknown key 'step'; did you mean 'steps'?" in joined
    assert "child.yaml: student.widht: unknown key 'widht'; did you mean 'width'?" in joined
    assert "child.yaml: data.kernel: " in joined
    assert "command line: strategy.name: unknown strategy 'tuby'; did you mean" not in joined
    assert "command line: strategy.name: unknown strategy 'tuby'; known: none, other, toy" in joined
    assert len(lines) == 4


def test_values_out_of_range_are_told_with_their_key(write):
    assert "student: width=0 is too small" in problems(write("base.yaml", BASE), "student.width=0")[0]
    assert "seed=-1" in problems(write("base.yaml", BASE), "seed=-1")[0]


@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        ("student.mode=posh", "'fancy'"),
        ("student.width=abc", "'abc'"),
        ("student.width=null", "None"),
        ("student.kernel=[1,2]", "length"),
        ("student.rate=[1]", "student.rate"),
        ("trainer=3", "must be a mapping"),
        ("student=toy", "must be a mapping"),
        ("losses=3", "must be a mapping"),
        ("name=x", "cannot be set"),
        ("trainer.steps=7", "multiple of"),
        ("nonsense", "neither an option nor an override"),
        ("student.inner.deep=1", "did you mean 'depth'"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(write, override, fragment):
    lines = problems(write("base.yaml", BASE), override)
    assert len(lines) == 1
    assert fragment in lines[0]


def test_missing_components_are_told(write):
    joined = "\n".join(problems(write("empty.yaml", "question: q\n")))
    assert "data: must be a mapping with a name" in joined
    assert "student: must be a mapping with a name" in joined


def test_a_component_without_its_name_is_told_the_key(write):
    (line,) = problems(write("base.yaml", BASE), "strategy={type: toy}")
    assert "strategy: has no name; accepted: name: one of none, other, toy" in line


def test_plain_settings_rebuild_the_same_experiment(write):
    loaded = load(write("base.yaml", BASE), "seed=3", "patches.augment.flip=0.1")
    assert from_plain(as_plain(loaded)) == loaded


def test_components_nest(write):
    REGISTRIES["strategy"].register("nesting", config=NestingConfig)(type("Nesting", (), {}))
    loaded = load(write("base.yaml", BASE), "strategy={name: nesting, child: {name: other, height: 7}}")
    assert loaded.strategy.config.child.config == OtherConfig(height=7)
    assert from_plain(as_plain(loaded)) == loaded


@pytest.fixture
def pairs_file(write):
    """An experiment whose strategy holds a mapping of freely named settings."""
    REGISTRIES["strategy"].register("pairs", config=PairsConfig)(type("Pairs", (), {}))
    text = "strategy: {name: pairs, pairs: {mid: {layer: blocks.2}, late: {layer: blocks.4, weight: 2}}}\n"
    return write("pairs.yaml", BASE + text)


def test_freely_named_settings_become_dataclasses_in_their_order(pairs_file):
    pairs = load(pairs_file).strategy.config.pairs
    assert list(pairs.items()) == [
        ("mid", PairConfig(layer="blocks.2")),
        ("late", PairConfig(layer="blocks.4", weight=2.0)),
    ]


def test_no_mapping_at_all_is_the_default_and_an_empty_one_is_accepted(pairs_file, write):
    plain = write("plain.yaml", BASE + "strategy: {name: pairs, weights: {a: 2}}\n")
    assert load(plain).strategy.config == PairsConfig(weights={"a": 2.0})
    assert load(plain, "strategy.pairs={}").strategy.config.pairs == {}
    assert load(pairs_file, "strategy.pairs={}").strategy.config.pairs.keys() == {"mid", "late"}  # mappings merge


def test_an_override_reaches_into_one_of_the_freely_named(pairs_file):
    pairs = load(pairs_file, "strategy.pairs.mid.weight=0.5").strategy.config.pairs
    assert pairs == {"mid": PairConfig(layer="blocks.2", weight=0.5), "late": PairConfig(layer="blocks.4", weight=2.0)}


def test_a_child_adds_and_changes_freely_named_settings(pairs_file, write):
    text = "base: pairs.yaml\nstrategy: {pairs: {mid: {layer: blocks.3}, deep: {layer: blocks.6}}}\n"
    pairs = load(write("child.yaml", text)).strategy.config.pairs
    assert {name: pair.layer for name, pair in pairs.items()} == {
        "mid": "blocks.3",
        "late": "blocks.4",
        "deep": "blocks.6",
    }


@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        (
            "strategy.pairs.mid.wieght=1",
            "command line: strategy.pairs.mid.wieght: unknown key 'wieght'; did you mean 'weight'?",
        ),
        ("strategy.pairs=3", "command line: strategy.pairs: must be a mapping of named settings, got 3"),
        ("strategy.pairs=[a]", "command line: strategy.pairs: must be a mapping of named settings, got ['a']"),
        ("strategy.pairs.mid=blocks.2", "command line: strategy.pairs.mid: must be a mapping of settings"),
        ("strategy.pairs.new.weight=1", "strategy.pairs.new.layer: is missing and has no default"),
        ("strategy.pairs.mid.weight=-1", "strategy.pairs.mid: weight=-1.0 is negative"),
        ("strategy.pairs.mid.weight=much", "strategy.pairs.mid.weight: 'much' is not accepted"),
        ("strategy.weights.a=much", "strategy.weights"),
        (
            "strategy.pairs={a.b: {layer: blocks.2}}",
            "command line: strategy.pairs.a.b: 'a.b' has a dot, at which keys are split; accepted: a name without",
        ),
        ("losses={a.b: {name: overlap}}", "losses.a.b: 'a.b' has a dot"),
        ("strategy.pairs={'': {layer: blocks.2}}", "strategy.pairs: '' is no name; accepted: a name of a character"),
        ("losses={'': {name: overlap}}", "command line: losses: '' is no name"),
        ("strategy.pairs={1: {layer: blocks.2}}", "strategy.pairs.1: 1 is no text; accepted: a name, if need be in"),
        ("losses={true: {name: overlap}}", "losses.True: True is no text"),
        *(
            (f"losses={{{name}: {{name: overlap}}}}", f"losses.{name}: '{name}' means something to torch already")
            for name in ("half", "keys", "update", "training", "forward")
        ),
        ("strategy.pairs={half: {layer: blocks.2}}", "strategy.pairs.half: 'half' means something to torch already"),
    ],
)
def test_what_is_wrong_with_one_of_the_freely_named_is_one_line_with_its_key(pairs_file, override, fragment):
    (line,) = problems(pairs_file, override)
    assert fragment in line


def test_freely_named_settings_survive_the_way_through_a_checkpoint(pairs_file):
    loaded = load(pairs_file, "strategy.pairs.mid.weight=0.5")
    plain = as_plain(loaded)
    assert plain["strategy"]["pairs"]["mid"] == {"layer": "blocks.2", "weight": 0.5}
    assert from_plain(plain) == loaded


def test_a_differing_freely_named_setting_is_reported_with_its_key(pairs_file):
    rows = differences(load(pairs_file), load(pairs_file, "strategy.pairs.late.weight=1"))
    assert rows == [("strategy.pairs.late.weight", 2.0, 1.0)]


def test_only_differing_keys_are_reported(write):
    a = load(write("a.yaml", BASE))
    b = load(write("b.yaml", "base: a.yaml\nstudent: {width: 4}\n"))
    assert [row for row in differences(a, b) if row[0] != "name"] == [("student.width", 16, 4)]


def test_environment_variables_can_stand_in_paths(write, monkeypatch):
    monkeypatch.setenv("SOMEWHERE", "/data/x")
    path = write("a.yaml", BASE + "runs: ${oc.env:SOMEWHERE}/runs\n")
    assert str(load(path).runs) == "/data/x/runs"
    monkeypatch.delenv("SOMEWHERE")
    assert "SOMEWHERE" in problems(path)[0]


def test_a_yaml_file_cannot_call_python(write):
    assert len(problems(write("a.yaml", "runs: !!python/object/apply:os.getcwd []\n"))) == 1


@pytest.fixture
def grounds(write, monkeypatch):
    """Files of two arms on two grounds, in a user's own folder."""
    (write("x.yaml", "").parent / "experiments").mkdir()
    write("experiments/scratch.yaml", BASE)
    write("experiments/op_scratch.yaml", "question: q\ndata: {name: toy}\nstudent: {name: toy, width: 8}\n")
    write("experiments/op_hard_scratch.yaml", "base: op_scratch.yaml\nstudent: {mode: fancy}\n")
    write("experiments/deep.yaml", "base: scratch.yaml\nstudent: {kernel: [5, 5, 5]}\nruns: r/${ground}first\n")
    monkeypatch.chdir(write("x.yaml", "").parent)
    monkeypatch.setattr("distill3d.config.catalog.folders", lambda: [Path("experiments")])


@pytest.mark.parametrize(
    ("name", "width", "mode", "runs"),
    [
        ("deep", 16, "fancy", "r/first"),
        ("op_deep", 8, "plain", "r/op_first"),
        ("op_hard_deep", 8, "fancy", "r/op_hard_first"),
    ],
)
def test_an_arm_without_a_file_on_a_ground_takes_its_file_and_the_grounds_parents(grounds, name, width, mode, runs):
    loaded = load(name)
    config = loaded.student.config
    assert (loaded.name, config.width, config.mode, config.kernel) == (name, width, mode, (5, 5, 5))
    assert str(loaded.runs) == runs


def test_a_file_of_the_grounds_own_wins(grounds, write):
    write("experiments/op_deep.yaml", "base: op_scratch.yaml\nstudent: {width: 2}\n")
    assert load("op_deep").student.config.width == 2
    assert load("op_hard_deep").student.config.width == 2
    assert load("op_hard_deep").student.config.mode == "fancy"
    assert load("deep").student.config.width == 16


def test_an_arm_of_one_ground_alone_exists_on_the_grounds_above_it(grounds, write):
    write("experiments/op_real.yaml", "base: op_scratch.yaml\n")
    assert {"op_real", "op_hard_real"} <= experiments().keys()
    assert "real" not in experiments()
    with pytest.raises(ConfigError, match=r"unknown experiment 'real'.*most also with op_, op_hard_"):
        find_experiment("real")


def test_an_error_on_a_ground_names_the_file_that_said_it(grounds, write):
    write("experiments/bad.yaml", "base: scratch.yaml\nstudent: {widht: 1}\n")
    assert problems("op_bad")[0].startswith("experiments/bad.yaml: student.widht: unknown key")


def test_the_ground_is_no_setting(grounds):
    assert "unknown key 'ground'" in problems("deep", "ground=op_")[0]


def test_a_part_takes_the_strategy_of_another_experiment_on_its_ground(grounds, write):
    write("experiments/near.yaml", "base: scratch.yaml\nstrategy: {name: toy, width: 3}\n")
    write("experiments/op_near.yaml", "base: op_scratch.yaml\nstrategy: {name: toy, width: 5}\n")
    text = "base: scratch.yaml\nstrategy: {name: pair, parts: {a: {base: near.yaml, mode: fancy}, b: {name: other}}}\n"
    write("experiments/both.yaml", text)
    REGISTRIES["strategy"].register("pair", config=TogetherConfig)(type("Pair", (), {}))
    for name, width in (("both", 3), ("op_both", 5)):
        parts = load(name).strategy.config.parts
        assert (parts["a"].name, parts["a"].config.width, parts["a"].config.mode) == ("toy", width, "fancy")
        assert parts["b"].name == "other"


def test_a_part_that_is_its_own_base_is_refused(grounds, write):
    write("experiments/round.yaml", "base: scratch.yaml\nstrategy: {name: pair, parts: {a: {base: round.yaml}}}\n")
    assert "circle" in problems("round")[0]


def test_an_error_in_what_a_part_takes_names_the_file_that_said_it(grounds, write):
    write("experiments/near.yaml", "base: scratch.yaml\nstrategy: {name: toy, width: 3, widht: 3}\n")
    write("experiments/both.yaml", "base: scratch.yaml\nstrategy: {name: pair, parts: {a: {base: near, rat: 1}}}\n")
    REGISTRIES["strategy"].register("pair", config=TogetherConfig)(type("Pair", (), {}))
    taken, own = problems("op_both")
    assert taken.startswith("experiments/near.yaml: strategy.parts.a.widht: unknown key")
    assert own.startswith("experiments/both.yaml: strategy.parts.a.rat: unknown key")


def test_origins_of_a_replaced_component_go_with_it(grounds, write):
    write("experiments/wide.yaml", "base: scratch.yaml\nstudent: {name: other, height: 3}\n")
    origins = read(find_experiment("wide")).origins
    file_of = {key: Path(origin).name for key, origin in origins.items() if key.startswith("student")}
    assert file_of == dict.fromkeys(("student", "student.name", "student.height"), "wide.yaml")


def test_files_that_are_no_experiments_are_left_out_of_the_list_and_named(grounds, write, caplog):
    write("experiments/stray.yaml", "- a\n- b\n")
    write("experiments/broken.yaml", "a: [")
    folder = write("experiments/._scratch.yaml", "").parent
    (folder / "._scratch.yaml").write_bytes(b"\x00\xff\xb0")
    (folder / "bytes.yaml").write_bytes(b"\xff\xb0")
    assert not {"stray", "broken", "bytes", "._scratch"} & set(questions())
    assert "scratch" in questions()
    assert "._scratch" not in experiments()
    named = {Path(record.message.split(":")[0]).name for record in caplog.records}
    assert named == {"stray.yaml", "broken.yaml", "bytes.yaml"}
    assert not any("\n" in record.message for record in caplog.records)


@pytest.mark.parametrize(("seed", "fits"), [(2**32 - 1, True), (2**32, False), (10**30, False)])
def test_a_seed_that_numpy_does_not_take_is_one_line(write, seed, fits):
    path = write("a.yaml", BASE)
    if fits:
        assert load(path, f"seed={seed}").seed == seed
        return
    (line,) = problems(path, f"seed={seed}")
    assert line == f"command line: seed: {seed} is too large for a seed; accepted: 0 to 4294967295"


def test_a_file_that_does_not_lead_to_scratch_stands_alone(grounds, write):
    write("experiments/alone.yaml", "question: q\ndata: {name: other}\nstudent: {name: toy}\n")
    write("experiments/beside.yaml", "base: alone.yaml\n")
    write("experiments/op_broken.yaml", "data: [1\n")
    assert {"alone", "beside", "op_broken"} <= experiments().keys()
    for name in ("op_alone", "op_hard_beside", "op_hard_broken"):
        with pytest.raises(ConfigError, match=rf"unknown experiment '{name}' \(did you mean"):
            find_experiment(name)


def test_a_file_may_have_an_arm_on_a_ground_for_its_base(grounds, write):
    write("experiments/of_mine.yaml", "base: op_hard_deep.yaml\nseed: 3\n")
    loaded, base = load("of_mine"), load("op_hard_deep")
    assert (loaded.student, loaded.data, loaded.seed) == (base.student, base.data, 3)
    with pytest.raises(ConfigError, match=r"op_shallow.yaml: no such experiment file"):
        load(write("experiments/lost.yaml", "base: op_shallow.yaml\n"))


def test_the_question_of_an_arm_without_a_file_on_its_ground_says_the_ground(grounds):
    assert [load(name).question for name in ("deep", "op_scratch", "op_hard_deep")] == ["q", "q", "q (on op_hard)"]
    assert load("op_deep", "question=mine").question == "mine"


@dataclass(frozen=True, kw_only=True, slots=True)
class WordsConfig:
    cases: tuple[str, ...] = ()
    volume: str = "{stem}"
    group: str | None = None
    sizes: tuple[float, ...] = ()
    flags: tuple[bool, ...] = ()


WORDS = "[17302_00001, 001, 010, 1e3, yes, null, 2024-01-02, 1_0, 'quoted', plain, '*']"
AS_WRITTEN = ("17302_00001", "001", "010", "1e3", "yes", "null", "2024-01-02", "1_0", "quoted", "plain", "*")


@pytest.fixture
def words(write):
    REGISTRIES["data"].register("words", config=WordsConfig)(type("Words", (), {}))
    return write(
        "words.yaml", f"data: {{name: words, cases: {WORDS}, group: 1e3}}\nstudent: {{name: toy}}\nruns: 2024_01\n"
    )


def test_a_word_of_a_list_of_text_is_read_as_it_is_written(words, write):
    write("child.yaml", "base: words.yaml\ndata: {volume: x}\n")
    for loaded in (load(words), load(words.with_name("child.yaml")), load(words, f"data.cases={WORDS}")):
        assert loaded.data.config.cases == AS_WRITTEN
        assert (loaded.data.config.group, str(loaded.runs)) == ("1e3", "2024_01")
        assert from_plain(as_plain(loaded)) == loaded


def test_a_word_of_a_list_of_numbers_is_still_a_number(words):
    config = load(words, "data.sizes=[1e3, 010, 1_0]", "data.flags=[yes, off]", "data.group=null").data.config
    assert (config.sizes, config.flags, config.group) == ((1000.0, 8.0, 10.0), (True, False), None)


def test_a_list_of_a_child_replaces_the_words_of_its_parent(words, write):
    write("child.yaml", "base: words.yaml\ndata: {cases: [7, a]}\n")
    assert load(words.with_name("child.yaml")).data.config.cases == ("7", "a")
    assert load(words.with_name("child.yaml"), "data.cases=[b]").data.config.cases == ("b",)


@pytest.mark.parametrize("value", ["{stem}", "{stem}_0000", "img_{stem}", "a: b: c"])
def test_text_with_braces_needs_no_quotes(words, value):
    assert load(words, f"data.volume={value}").data.config.volume == value


@pytest.mark.parametrize("value", ["/data/exp #1", "50% of #5", "#5", "&x y", "/x #"])
def test_a_command_line_has_no_comments_and_no_anchors(words, value):
    assert load(words, f"data.volume={value}").data.config.volume == value
    (line,) = problems(words, f"optimizer.lr=0.1 #{value}")
    assert line.startswith(f"command line: optimizer.lr: '0.1 #{value}' is not accepted")


def test_a_list_that_is_no_yaml_is_one_line_that_names_the_argument(words):
    (line,) = problems(words, "data.cases=[{stem}_mask, a]")
    assert line.startswith("command line: data.cases: '[{stem}_mask, a]' is not accepted")


def test_a_number_that_an_interpolation_puts_into_text_is_as_written(words, write):
    write("child.yaml", "base: words.yaml\noptimizer: {lr: 1e-3}\nruns: lr_${optimizer.lr}\n")
    assert str(load(words.with_name("child.yaml")).runs) == "lr_1e-3"
    assert load(words.with_name("child.yaml")).optimizer.lr == 0.001


def test_a_word_that_was_asked_for_agrees_with_the_text_it_became():
    settings = {"data": {"train": ["17302_00001", "001"]}, "seed": 8}
    assert disagreements({"data.train": ["17302_00001", "001"], "seed": "010"}, settings) == []
    assert disagreements({"data.train": "[17302_00001, 001]"}, settings) == []
    assert disagreements({"data.train": ["17302_00002", "001"]}, settings) != []
