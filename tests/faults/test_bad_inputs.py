"""Bad inputs through three doors (library, papermill, run_all.sh): each ends in one line of our own."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import make_model

import kn_utils as kn
from kn_utils.base import ROOT, StudyError
from kn_utils.checks import RANGES, Range
from kn_utils.data.facts import Facts
from kn_utils.model.language_model import LanguageModel
from kn_utils.model.typed import typed_answers
from kn_utils.neurons.choose import as_pairs, random_neurons, strongest
from kn_utils.neurons.refine import Refined, refine_bags
from kn_utils.run import command
from kn_utils.run.parameters import StudyParameters

NAN, INF = math.nan, math.inf


@dataclass
class Small:
    """A random model, prompts, their scores and neurons, to call the library with."""

    model: LanguageModel
    facts: Facts
    prompts: pd.DataFrame
    scores: pd.DataFrame
    refined: Refined

    @property
    def neurons(self) -> pd.DataFrame:
        return self.refined.neurons

    @property
    def twice(self) -> pd.DataFrame:
        return pd.concat([self.prompts, self.prompts], ignore_index=True)

    def attribute(self, prompts: object = None, model: object = None, **options: object) -> object:
        given = self.prompts if prompts is None else prompts
        return kn.attribute(model or self.model, given, progress=False, **options)

    def refine(self, scores: object = None, prompts: object = None, **options: object) -> object:
        scores = self.scores if scores is None else scores
        return kn.refine(scores, self.prompts if prompts is None else prompts, **options)

    def effects(self, prompts: object = None, neurons: object = None, **options: object) -> object:
        prompts = self.prompts if prompts is None else prompts
        return kn.effects(self.model, prompts, self.neurons if neurons is None else neurons, **options)

    def ask(self, prompts: object = None, **options: object) -> object:
        return kn.answer_probability(self.model, self.prompts if prompts is None else prompts, **options)

    def inside(self, call: Callable, *given: object, **options: object) -> None:
        with call(self.model, *given, **options):
            pass

    def update(self, **options: object) -> None:
        self.inside(kn.update_fact, [(0, 1)], **{"old": "Paris", "new": "Berlin", **options})

    def strongest(self, scores: object = None, k: int = 2, **options: object) -> object:
        scores = self.scores if scores is None else scores
        return strongest(scores, self.prompts, self.neurons, self.refined.bags, k, **options)


@pytest.fixture(scope="module")
def small(toy) -> Small:
    model, prompts = make_model(), kn.make_prompts(toy, "en")
    scores = kn.attribute(model, prompts, rule="gradient", progress=False)
    return Small(model, toy, prompts, scores, refine_bags(scores, prompts, target=None, share=0.3))


#: What is called with what; words that the one line holds.
LIBRARY: dict[str, tuple[Callable[[Small], object], str]] = {
    "attribute keep 0": (lambda s: s.attribute(keep=0), "keep=0; it is a number above 0 and at most 1."),
    "attribute keep 1.5": (lambda s: s.attribute(keep=1.5), "keep=1.5"),
    "attribute keep NaN": (lambda s: s.attribute(keep=NAN), "keep=nan"),
    "attribute keep text": (lambda s: s.attribute(keep="0.1"), "keep='0.1'"),
    "attribute keep true": (lambda s: s.attribute(keep=True), "keep=True"),
    "attribute batch 0": (lambda s: s.attribute(batch_size=0), "batch_size=0; it is a whole number"),
    "attribute batch -1": (lambda s: s.attribute(batch_size=-1), "batch_size=-1"),
    "attribute batch 1.5": (lambda s: s.attribute(batch_size=1.5), "batch_size=1.5"),
    "attribute steps 0": (lambda s: s.attribute(rule="right", steps=0), "steps=0"),
    "attribute steps 2.5": (lambda s: s.attribute(rule="right", steps=2.5), "steps=2.5"),
    "attribute tolerance NaN": (lambda s: s.attribute(tolerance=NAN), "tolerance=nan"),
    "attribute tolerance 1": (lambda s: s.attribute(tolerance=1), "tolerance=1"),
    "attribute rule": (lambda s: s.attribute(rule="simpson"), "unknown rule 'simpson'"),
    "attribute method": (lambda s: s.attribute(method="lime"), "unknown method 'lime'"),
    "attribute baseline": (lambda s: s.attribute(baseline="mean"), "unknown baseline 'mean'"),
    "attribute multiplier": (lambda s: s.attribute(multiplier="x"), "unknown multiplier"),
    "attribute norm": (lambda s: s.attribute(norm="x"), "unknown norm"),
    "attribute precision": (lambda s: s.attribute(precision="int8"), "unknown precision"),
    "attribute unknown": (lambda s: s.attribute(unknown="x"), "unknown='x'; it is 'refuse' or 'allow'."),
    "attribute layer 9": (lambda s: s.attribute(layers=[9]), "layers 0 to 2"),
    "attribute layer -1": (lambda s: s.attribute(layers=[-1]), "layers 0 to 2"),
    "attribute no layers": (lambda s: s.attribute(layers=[]), "layers=[]"),
    "attribute layer twice": (lambda s: s.attribute(layers=[0, 0]), "layers=[0, 0]"),
    "attribute layer alone": (lambda s: s.attribute(layers=1), "layers=1"),
    "attribute devices": (lambda s: s.attribute(devices=[], out="x.parquet"), "devices=[]"),
    "attribute prompt twice": (lambda s: s.attribute(s.twice), "more than once"),
    "attribute no answers": (lambda s: s.attribute(s.prompts.drop(columns="answer")), "column 'answer'"),
    "attribute answer None": (lambda s: s.attribute(s.prompts.assign(answer=None)), "answer is None"),
    "attribute answer empty": (lambda s: s.attribute(s.prompts.assign(answer=" ")), "answer is ' '"),
    "attribute answer number": (lambda s: s.attribute(s.prompts.assign(answer=3)), "answer is 3"),
    "attribute text None": (lambda s: s.attribute(s.prompts.assign(text=None)), "text is None"),
    "attribute masked": (lambda s: s.attribute(s.prompts.assign(masked="x")), "masked is 'x'"),
    "attribute a list": (lambda s: s.attribute(["The [Y]."]), "should be a table"),
    "attribute nothing": (lambda s: s.attribute(s.prompts.head(0)), "no prompts"),
    "attribute a name": (lambda s: s.attribute(model="mini"), "load_model(name)"),
    "attribute their model": (lambda s: s.attribute(model=s.model.model), "LanguageModel(model, tok"),
    "attribute out folder": (lambda s: s.attribute(out=ROOT), "no regular file"),
    "attribute out device": (lambda s: s.attribute(out="/dev/null"), "no regular file"),
    "map batch 0": (lambda s: kn.attribution_map(s.model, s.prompts, batch_size=0), "batch_size=0"),
    "map twice": (lambda s: kn.attribution_map(s.model, s.twice), "more than once"),
    "map layers": (lambda s: kn.attribution_map(s.model, s.prompts, layers="01"), "layers='01'"),
    "refine share -1": (lambda s: s.refine(share=-1), "share=-1"),
    "refine share 2": (lambda s: s.refine(share=2), "share=2"),
    "refine share NaN": (lambda s: s.refine(share=NAN), "share=nan"),
    "refine threshold 0": (lambda s: s.refine(threshold=0), "threshold=0"),
    "refine threshold 2": (lambda s: s.refine(threshold=2), "threshold=2"),
    "refine threshold NaN": (lambda s: s.refine(threshold=NAN), "threshold=nan"),
    "refine target (5, 2)": (lambda s: s.refine(target=(5, 2)), "target=(5, 2)"),
    "refine target negative": (lambda s: s.refine(target=(-5, 2)), "target=(-5, 2)"),
    "refine target NaN": (lambda s: s.refine(target=(NAN, 5)), "target=(nan, 5)"),
    "refine target 3": (lambda s: s.refine(target=3), "target=3"),
    "refine target of three": (lambda s: s.refine(target=(1, 2, 3)), "target=(1, 2, 3)"),
    "refine step 0": (lambda s: s.refine(step=0), "step=0"),
    "refine floor 0": (lambda s: s.refine(floor=0), "floor=0"),
    "refine rounds -1": (lambda s: s.refine(rounds=-1), "rounds=-1"),
    "refine keep 3": (lambda s: s.refine(keep=3), "keep=3"),
    "refine scores NaN": (lambda s: s.refine(s.scores.assign(score=NAN)), "score is nan"),
    "refine a score infinite": (
        lambda s: s.refine(s.scores.assign(score=np.where(s.scores.index == 4, INF, 1.0))),
        "scores, row 4",
    ),
    "refine scores negative": (lambda s: s.refine(s.scores.assign(score=-1.0)), "no prompt has a score"),
    "refine no scores": (lambda s: s.refine(s.scores.head(0)), "no prompt has a score"),
    "refine scores twice": (lambda s: s.refine(pd.concat([s.scores, s.scores])), "more than once"),
    "refine no layers": (lambda s: s.refine(s.scores.drop(columns="layer")), "column 'layer'"),
    "refine no facts": (lambda s: s.refine(prompts=s.prompts.drop(columns="fact")), "column 'fact'"),
    "refine prompt twice": (lambda s: s.refine(prompts=s.twice), "more than once"),
    "refine nothing": (lambda s: s.refine(prompts=s.prompts.head(0)), "an empty bag"),
    "refine others": (lambda s: s.refine(prompts=s.prompts.head(1)), "belong to no prompt"),
    "effects factor NaN": (lambda s: s.effects(operation="amplify", factor=NAN), "factor=nan"),
    "effects factor infinite": (lambda s: s.effects(operation="amplify", factor=INF), "factor=inf"),
    "effects factor -1": (lambda s: s.effects(operation="amplify", factor=-1), "factor=-1"),
    "effects suppress by 3": (lambda s: s.effects(factor=3), "suppress multiplies by 0"),
    "effects operation": (lambda s: s.effects(operation="x"), "operation='x'"),
    "effects batch 0": (lambda s: s.effects(batch_size=0), "batch_size=0"),
    "effects prompt twice": (lambda s: s.effects(s.twice), "more than once"),
    "effects no layers": (lambda s: s.effects(neurons=s.neurons.drop(columns="layer")), "column 'layer'"),
    "effects neuron 1.5": (lambda s: s.effects(neurons=s.neurons.assign(neuron=1.5)), "neuron is 1.5"),
    "effects neuron NaN": (lambda s: s.effects(neurons=s.neurons.assign(neuron=NAN)), "neuron is nan"),
    "effects neuron 999": (lambda s: s.effects(neurons=s.neurons.assign(neuron=999)), "is not in the model"),
    "effects before": (lambda s: s.effects(before=s.prompts), "before lack the column 'probability'"),
    "suppress 1.5": (lambda s: s.inside(kn.suppress, [(0, 1.5)]), "pairs (layer, neuron)"),
    "suppress NaN": (lambda s: s.inside(kn.suppress, [(0, NAN)]), "pairs (layer, neuron)"),
    "suppress triples": (lambda s: s.inside(kn.suppress, [(0, 1, 2), (0, 1, 2)]), "pairs (layer, neuron)"),
    "suppress text": (lambda s: s.inside(kn.suppress, "abc"), "pairs (layer, neuron)"),
    "suppress one pair": (lambda s: s.inside(kn.suppress, (0, 1)), "pairs (layer, neuron)"),
    "suppress no layers": (lambda s: s.inside(kn.suppress, s.scores[["neuron"]]), "column 'layer'"),
    "suppress layer -1": (lambda s: s.inside(kn.suppress, [(-1, 0)]), "is not in the model"),
    "amplify NaN": (lambda s: s.inside(kn.amplify, [(0, 1)], factor=NAN), "factor=nan"),
    "amplify infinite": (lambda s: s.inside(kn.amplify, [(0, 1)], factor=INF), "factor=inf"),
    "amplify text": (lambda s: s.inside(kn.amplify, [(0, 1)], factor="2"), "factor='2'"),
    "erase to": (lambda s: s.inside(kn.erase, [(0, 1)], to="x"), "to='x'"),
    "erase a name": (lambda s: kn.erase("mini", [(0, 1)]).__enter__(), "load_model(name)"),
    "update l1 NaN": (lambda s: s.update(l1=NAN), "l1=nan"),
    "update l2 infinite": (lambda s: s.update(l2=INF), "l2=inf"),
    "update l2 -1": (lambda s: s.update(l2=-1), "l2=-1"),
    "update old None": (lambda s: s.update(old=None), "answer=None"),
    "update new empty": (lambda s: s.update(new=""), "answer=''"),
    "update new nobody": (lambda s: s.update(new=[]), "answer=[]"),
    "fine_tune lr NaN": (lambda s: s.inside(kn.fine_tune, [(0, 1)], s.prompts.head(1), lr=NAN), "lr=nan"),
    "fine_tune steps -1": (
        lambda s: s.inside(kn.fine_tune, [(0, 1)], s.prompts.head(1), steps=-1),
        "steps=-1",
    ),
    "answer batch 0": (lambda s: s.ask(batch_size=0), "batch_size=0"),
    "answer batch -1": (lambda s: s.ask(batch_size=-1), "batch_size=-1"),
    "answer twice": (lambda s: s.ask(s.twice), "more than once"),
    "answer None": (lambda s: s.ask(s.prompts.assign(answer=None)), "answer is None"),
    "answer no texts": (lambda s: s.ask(s.prompts.drop(columns="text")), "column 'text'"),
    "answer unknown": (lambda s: s.ask(unknown="x"), "unknown='x'"),
    "typed candidates": (lambda s: typed_answers(s.model, s.prompts, [["Paris"]]), "1 lists of candidates"),
    "typed without its own": (
        lambda s: typed_answers(s.model, s.prompts.head(1), [["Berlin"]]),
        "is not among its candidates",
    ),
    "prompts wordings 0": (lambda s: kn.make_prompts(s.facts, wordings=0), "wordings=0"),
    "prompts wordings 1.5": (lambda s: kn.make_prompts(s.facts, wordings=1.5), "wordings=1.5"),
    "prompts language": (lambda s: kn.make_prompts(s.facts, "xx"), "unknown language 'xx'"),
    "prompts languages": (lambda s: kn.make_prompts(s.facts, ["en"]), "language=['en']"),
    "prompts no relation": (lambda s: kn.make_prompts(s.facts, "en", []), "relation=[]"),
    "prompts masked": (lambda s: kn.make_prompts(s.facts, masked="x"), "masked='x'"),
    "prompts of a name": (lambda s: kn.make_prompts("mini"), "load_facts(dataset)"),
    "facts no relations": (lambda s: kn.load_facts("mini", relations=[]), "relations=[]"),
    "facts no languages": (lambda s: kn.load_facts("mini", languages=[]), "languages=[]"),
    "facts a relation": (lambda s: kn.load_facts("mini", relations="P36"), "relations='P36'"),
    "facts None": (lambda s: kn.load_facts(None), "dataset=None"),
    "facts unknown": (lambda s: kn.load_facts("nothing"), "nothing"),
    "facts option": (lambda s: kn.load_facts("mini", colour=1), "colour"),
    "sample 0": (lambda s: s.facts.sample(0), "facts_per_relation=0"),
    "sample seed": (lambda s: s.facts.sample(1, seed=-1), "seed=-1; it is a whole number of at least 0"),
    "random shape": (lambda s: random_neurons(s.neurons, (0, 5)), "shape=(0, 5)"),
    "random too many": (lambda s: random_neurons(s.neurons.assign(fact="a"), (1, 2)), "cannot be drawn"),
    "random seed": (lambda s: random_neurons(s.neurons, (3, 48), seed=1.5), "seed=1.5"),
    "random no layers": (lambda s: random_neurons(s.neurons[["fact"]], (3, 48)), "column 'layer'"),
    "strongest 0": (lambda s: s.strongest(k=0), "k=0"),
    "strongest common": (lambda s: s.strongest(common=2), "common=2"),
    "strongest NaN": (lambda s: s.strongest(s.scores.assign(score=NAN)), "score is nan"),
    "model None": (lambda s: kn.load_model(None), "name=None"),
    "model dtype": (lambda s: kn.load_model("mini", dtype="int8"), "unknown dtype"),
    "model device": (lambda s: kn.load_model("mini", device="abacus"), "unknown device"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARY)
def test_library_refuses_in_one_line(small, name):
    call, words = LIBRARY[name]
    before = small.model.checksum()
    with pytest.raises(StudyError) as caught:
        call(small)
    said = str(caught.value)
    assert words in said and "\n" not in said and "np." not in said
    assert small.model.checksum() == before


@pytest.mark.slow
def test_good_values_at_the_ends_of_ranges_are_taken(small):
    assert len(small.attribute(keep=1, batch_size=1, layers=range(2)))
    assert len(small.attribute(keep=np.float32(0.5), batch_size=np.int64(3), steps=1))
    small.refine(threshold=1, share=1, step=1, target=(2, 2), floor=1, rounds=0)
    small.refine(target=[0, 5])
    small.inside(kn.amplify, [], factor=0)
    small.inside(kn.amplify, [[0, 1.0]], factor=0.0)
    assert as_pairs(pd.DataFrame({"layer": [1.0], "neuron": [2.0]})).tolist() == [[1, 2]]


def test_a_range_is_what_it_says():
    ends = {"[0, 1)": Range(0, 1, below=True), "(0, 1]": Range(0, 1, above=True)}
    assert [ends["[0, 1)"].holds(x) for x in (0, 0.5, 1)] == [True, True, False]
    assert [ends["(0, 1]"].holds(x) for x in (0, 0.5, 1)] == [False, True, True]
    assert not any(Range(-1).holds(x) for x in (None, True, "1", NAN, INF, 1j, [1]))
    assert Range(1, whole=True, optional=True).holds(None) and not Range(1, whole=True).holds(1.0)


def test_parameters_and_library_have_one_range():
    probes = [-1, 0, 1e-9, 0.5, 1, 1.5, 2, 1000, 1001, 2**32, INF, NAN]
    shared = sorted(RANGES.keys() & StudyParameters.model_fields.keys())
    assert {"keep", "share", "threshold", "steps", "batch_size", "factor", "l1", "seed"} <= set(shared)
    for name in shared:
        for value in probes:
            given = int(value) if RANGES[name].whole and math.isfinite(value) and value % 1 == 0 else value
            try:
                StudyParameters.check(**{name: given})
                taken = True
            except StudyError:
                taken = False
            assert taken == RANGES[name].holds(given), f"{name}={given}"


#: Parameter, value: what papermill and run_all.sh may be given wrongly.
PARAMETERS = [
    ("keep", 0),
    ("keep", 1.5),
    ("keep", NAN),
    ("threshold", 2),
    ("threshold", 0),
    ("share", -1),
    ("share", 2),
    ("share", NAN),
    ("batch_size", 0),
    ("batch_size", -1),
    ("wordings", 0),
    ("seed", -1),
    ("steps", 0),
    ("steps", 2.5),
    ("rule", "simpson"),
    ("baseline", "mean"),
    ("multiplier", "x"),
    ("precision", "int8"),
    ("dtype", "int8"),
    ("factor", NAN),
    ("factor", INF),
    ("factor", -1),
    ("l1", INF),
    ("l2", NAN),
    ("erased", 0),
    ("edits_per_relation", 0),
    ("checked_prompts", 0),
]


@pytest.mark.parametrize(("name", "value"), PARAMETERS)
def test_a_notebooks_cell_refuses_in_one_line(name, value):
    given = {"__annotations__": {name: object}, name: value, "In": []}
    with pytest.raises(StudyError) as caught:
        StudyParameters.from_notebook(given)
    assert name in str(caught.value) and "\n" not in str(caught.value)


#: Options of run_all.sh, and a word of the one line.
OPTIONS = [
    *((["--set", f"{name}={value}"], name) for name, value in PARAMETERS),
    (["--facts", "0"], "facts_per_relation"),
    (["--facts", "many"], "facts_per_relation"),
    (["--device", "abacus"], "device"),
    (["--language", "xx"], "xx"),
    (["--relation", "P99999"], "P99999"),
    (["--dataset", "nothing"], "nothing"),
    (["--dataset", "mini:colour=red"], "colour"),
    (["--notebooks", "99"], "99"),
    (["--set", "stepps=4"], "stepps"),
]


@pytest.fixture
def nothing_starts(tmp_path, monkeypatch) -> Iterator[Path]:
    def refuse(*given: object) -> int:
        raise AssertionError("a run was started")

    monkeypatch.setattr(command, "execute", refuse)
    yield tmp_path / "runs"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("options", "word"), OPTIONS)
def test_command_line_refuses_in_one_line_before_anything_starts(options, word, nothing_starts, capsys):
    assert command.main([*options, "--runs", str(nothing_starts)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and word in told.err and len(told.err.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("options", "word"), [OPTIONS[0], OPTIONS[-1], OPTIONS[-5]])
def test_run_all_refuses_so_too(options, word, tmp_path):
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix, "KN_MODELS": "0", "PYTHONPATH": str(ROOT)}
    line = [str(ROOT / "run_all.sh"), *options, "--runs", str(tmp_path / "runs")]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert done.returncode == 2 and word in done.stderr and not (tmp_path / "runs").exists()
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_papermill_refuses_so_too(tmp_path):
    notebook, name, value = "06_suppress_amplify", "factor", ".nan"  # all begin with the same cells
    source, made = ROOT / "notebooks" / f"{notebook}.ipynb", tmp_path / "made.ipynb"
    where = ["--cwd", str(source.parent), "-r", "out", str(tmp_path / "runs")]
    line = [sys.executable, "-m", "papermill", str(source), str(made), *where, "-p", name, value]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JUPYTER_PREFER_ENV_PATH": "1"}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode != 0 and not (tmp_path / "runs").exists()
    errors = [
        output
        for cell in nbformat.read(made, 4).cells
        for output in cell.get("outputs", [])
        if output.get("output_type") == "error"
    ]
    said = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(errors[0]["traceback"]))
    assert len(errors) == 1 and said.startswith(f"ParameterError: parameter {name}=") and "\n" not in said
