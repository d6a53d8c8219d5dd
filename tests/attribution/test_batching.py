"""Batches hold every prompt once and keep to the budget; a pass that does not fit is made in smaller ones."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_model

from kn_utils.attribution import batching
from kn_utils.attribution import settings as settings_room
from kn_utils.attribution.attribute import attribute, attribution_map, score_tables
from kn_utils.attribution.batching import Halving, batches, free_memory, memory_budget
from kn_utils.attribution.kernel import PassResult, integrate
from kn_utils.attribution.quadrature import AttributionError
from kn_utils.attribution.settings import ScoreSettings
from kn_utils.model.language_model import LanguageModel
from kn_utils.model.memory import is_out_of_memory
from kn_utils.model.rows import Row

WORDS = ["France", "Berlin", "of", "the", "capital", "India"]


def random_prompts(number: int, seed: int, most: int = 6) -> pd.DataFrame:
    """Texts of very different lengths with a blank at the end; answers of one to several pieces."""
    draw = np.random.default_rng(seed)
    texts = [" ".join(draw.choice(WORDS, draw.integers(1, most + 1))) + " [Y]" for _ in range(number)]
    answers = draw.choice(["B", "Paris", "New Delhi", "Ouagadougou"], number)
    names = [f"p{i}" for i in range(number)]
    return pd.DataFrame({"prompt": names, "text": texts, "answer": answers, "masked": "object"})


def cost(length: int) -> int:
    return 3 + 2 * length


@pytest.fixture(scope="module")
def small() -> LanguageModel:
    return make_model("bert")


@pytest.mark.parametrize("seed", range(8))
def test_every_prompt_is_in_one_batch_and_no_batch_costs_more_than_the_budget(seed, small, monkeypatch):
    draw = np.random.default_rng(100 + seed)
    window, budget = int(draw.integers(1, 30)), int(draw.integers(1, 800))
    monkeypatch.setattr(batching, "WINDOW", window)
    prompts = random_prompts(int(draw.integers(1, 90)), seed)
    found = list(batches(small.encode, prompts, cost, budget))
    assert sorted(p for batch in found for p in batch.prompts) == list(range(len(prompts)))
    wanted: dict[int, list[Row]] = {}
    for row in small.encode(prompts):
        wanted.setdefault(row.prompt, []).append(row)
    for batch in found:
        assert {p // window for p in batch.prompts} == {batch.window}
        for prompt, rows in zip(batch.prompts, batch.rows, strict=True):
            assert [(r.ids, r.position, r.target) for r in rows] == [
                (r.ids, r.position, r.target) for r in wanted[prompt]
            ]
        price = sum(map(len, batch.rows)) * cost(max(len(row.ids) for rows in batch.rows for row in rows))
        assert price <= budget or len(batch.prompts) == 1
    for number in range(-(-len(prompts) // window)):
        inside = [batch for batch in found if batch.window == number]
        assert [batch.number for batch in inside] == list(range(len(inside)))
        lengths = [len(rows[-1].ids) for batch in inside for rows in batch.rows]
        assert lengths == sorted(lengths)
        for one, after in zip(inside, inside[1:], strict=False):  # as full as may be
            rows = [*one.rows, after.rows[0]]
            assert sum(map(len, rows)) * cost(len(rows[-1][-1].ids)) > budget
    assert len({batch.name for batch in found}) == len(found)
    assert [batch.name for batch in found] == sorted(batch.name for batch in found)
    assert list(batches(small.encode, prompts, cost, budget)) == found


def test_only_one_window_is_encoded_at_a_time(small, monkeypatch):
    monkeypatch.setattr(batching, "WINDOW", 5)
    encoded, encode = [], LanguageModel.encode
    monkeypatch.setattr(
        LanguageModel,
        "encode",
        lambda self, table, *args: encoded.append(len(table)) or encode(self, table, *args),
    )
    first = next(batches(small.encode, random_prompts(23, 0), cost, 200))
    assert first.window == 0 and encoded == [5]
    list(batches(small.encode, random_prompts(23, 0), cost, 200))
    assert encoded == [5, 5, 5, 5, 5, 3]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2", "bloom", "llama", "opt"])
def test_texts_of_6_to_60_tokens_together_score_as_each_alone(kind):
    model = make_model(kind)
    texts = [
        " ".join(WORDS[i % 6] for i in range(n)) + " [Y]" for n in (1, 3, 8, 12 if model.causal else 46, 2)
    ]
    answers = ["B", "Paris", "New Delhi", "B", "Ouagadougou"]
    prompts = pd.DataFrame({"prompt": list("abcde"), "text": texts, "answer": answers, "masked": "object"})
    lengths = [len(row.ids) for row in model.encode(prompts)]
    assert max(lengths) > 5 * min(lengths) and 50 < max(lengths) <= 96, lengths
    together, notes = score_tables(model, prompts, batch_size=10_000, keep=1e-4, progress=False)
    for i, name in enumerate(prompts["prompt"]):
        alone, note = score_tables(model, prompts.iloc[[i]], batch_size=1, keep=1e-4, progress=False)
        own = together[together["prompt"] == name].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, alone, rtol=1e-6, check_exact=False)
        own = notes[notes["prompt"] == name].reset_index(drop=True)
        estimate = own.pop("error"), note.pop("error")  # of what is lost in rounding, rounding decides
        assert estimate[0].to_numpy() == pytest.approx(estimate[1].to_numpy(), rel=0.1, abs=1e-6)
        pd.testing.assert_frame_equal(own, note, rtol=1e-6, atol=1e-9)


@pytest.fixture
def quick(monkeypatch):
    """No garbage is collected after every failed pass: a test process holds much to look through."""
    monkeypatch.setattr(batching, "gc", SimpleNamespace(collect=lambda: None))


class Limited:
    """Scores with the kernel, but only so many rows times layers: a small memory."""

    def __init__(self, model, most: int, error=None):
        self.model, self.most, self.calls = model, most, []
        self.error = error or torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines"
        )

    def __call__(self, rows, layers):
        self.calls.append((len(rows), len(layers)))
        if len(rows) * len(layers) > self.most:
            raise self.error
        return integrate(self.model, rows, steps=2, layers=layers, gap=True)

    @property
    def refused(self) -> int:
        return sum(rows * layers > self.most for rows, layers in self.calls)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    MemoryError("cannot have 4 TB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
        "to ..."
    ),
    RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
]


@pytest.fixture(scope="module")
def rows(small) -> list[Row]:
    return sorted(small.encode(random_prompts(6, 1, most=3)), key=lambda row: len(row.ids))[:11]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("most", "error"), [*((most, None) for most in (33, 32, 12, 3, 2, 1)), *((12, error) for error in ERRORS)]
)
def test_a_pass_that_does_not_fit_is_made_in_smaller_ones(most, error, small, rows, capsys, quick):
    whole = integrate(small, rows, steps=2, gap=True)
    score = Limited(small, most, error)
    found = Halving(score, [0, 1, 2])(rows)
    for name in ("scores", "probability", "gap"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), rtol=1e-6, atol=1e-12)
    lines = capsys.readouterr().err.splitlines()
    assert (most >= 33) == (lines == [])
    if most == 32:
        longest = max(len(row.ids) for row in rows)
        assert lines == [f"out of memory with 11 rows of {longest} tokens; going on with 6 at a time"]
        assert score.calls == [(11, 3), (6, 3), (5, 3)]
    if most == 1:
        assert lines[-2].startswith("out of memory with 3 layers of one row of ")
        assert lines[-1].endswith("going on with 1 at a time")


@pytest.mark.slow
@pytest.mark.parametrize("most", [12, 2, 1])
def test_what_did_not_fit_is_not_tried_again(most, small, rows, quick):
    score = Limited(small, most)
    room = Halving(score, [0, 1, 2])
    rows = [row for row in rows if len(row.ids) == len(rows[-1].ids)] * 8
    room(rows)
    assert score.refused > 0
    before = score.refused
    long = [Row(r.prompt, [*r.ids[:-1], *[7] * 30, r.ids[-1]], r.position, r.target) for r in rows]
    room(rows)
    room(long)
    assert score.refused == before
    n = len(score.calls)
    short = [Row(r.prompt, r.ids[: min(len(r.ids) for r in rows) - 1], 1, r.target) for r in rows]
    room(short)
    assert score.calls[n] == (len(rows), 3), "short texts may fit where long ones did not"


def test_a_text_that_fits_nowhere_is_one_clear_error(small, rows, quick):
    wanted = (
        rf"one text of {len(rows[0].ids)} tokens does not fit into memory \(CUDA out of memory\. Tried to "
        rf"allocate 2\.00 GiB\.\); "
        "take fewer steps, precision='bfloat16', or a device with more memory"
    )
    with pytest.raises(AttributionError, match=wanted):
        Halving(Limited(small, 0), [0, 1, 2])(rows)


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("x"), ValueError("y")]
)
def test_other_errors_pass_unchanged(error, small, rows):
    score = Limited(small, 5, error)
    with pytest.raises(type(error)) as caught:
        Halving(score, [0, 1, 2])(rows)
    assert caught.value is error and len(score.calls) == 1


@pytest.mark.slow
def test_the_tensors_of_a_failed_pass_are_gone_before_the_next(small, rows):
    """Else the second try has less room than the first."""
    import weakref

    held = []

    def score(rows, layers):
        if held:
            assert held[0]() is None, "the failed pass's tensor is still there"
            return integrate(small, rows, steps=1, layers=layers)
        large = torch.zeros(1000)
        held.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    Halving(score, [0, 1, 2])(rows)
    assert len(held) == 1


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS hands out memory that it does not have")
def test_the_processor_s_own_words_are_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(caught.value), caught.value
    assert not is_out_of_memory(RuntimeError("index out of range in self"))


@pytest.mark.slow
def test_attribute_recovers_from_a_small_memory(bert, prompts, monkeypatch, capsys, quick):
    fixed = {"rule": "gauss-legendre", "steps": 4}
    whole = attribute(bert, prompts, batch_size=64, progress=False, **fixed)
    monkeypatch.setattr(settings_room, "integrate", _refusing(7))
    found = attribute(bert, prompts, batch_size=64, progress=False, **fixed)
    pd.testing.assert_frame_equal(found, whole, rtol=1e-6)
    assert "out of memory with" in capsys.readouterr().err
    maps = attribution_map(bert, prompts, batch_size=64, **fixed)
    torch.testing.assert_close(maps.double(), _unlimited(bert, prompts), rtol=1e-5, atol=1e-8)


def _refusing(most):
    def limited(model, rows, **options):
        if len(rows) * len(options["layers"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return integrate(model, rows, **options)

    return limited


def _unlimited(model, prompts):
    rows = model.encode(prompts)
    maps = integrate(model, rows).scores
    sizes = pd.Series([row.prompt for row in rows]).value_counts(sort=False).tolist()
    return torch.stack([part.mean(0) for part in maps.split(sizes)])


def test_the_budget_falls_with_free_memory_and_is_never_nothing(small, monkeypatch):
    found = []
    for free in (2.0**60, 2.0**28, 2.0**27, 2.0**26, 1.0, 0.0):
        monkeypatch.setattr(batching, "free_memory", lambda _, free=free: free)
        found.append(memory_budget(small))
    assert found[0] == batching.CPU_TOKENS and found[-1] == found[-2] == 1
    assert found == sorted(found, reverse=True)
    monkeypatch.setattr(batching, "free_memory", lambda _: 2.0**22)
    whole = memory_budget(small)
    assert 1 < whole < batching.CPU_TOKENS
    monkeypatch.setattr(batching, "free_memory", lambda _: 2.0**21)
    assert memory_budget(small) == pytest.approx(whole / 2, abs=1)
    assert memory_budget(make_model("bert", torch.float32)) == pytest.approx(
        whole, abs=1
    )  # half the bytes, half the memory
    assert memory_budget(make_model("bert", torch.float32), "bfloat16") > whole


def test_a_large_vocabulary_narrows_a_batch_on_a_processor(monkeypatch):
    """A row per token, its logits three times: Gemma's 262,144 in float32 leave room for 341."""
    monkeypatch.setattr(batching, "free_memory", lambda _: 2.0**60)
    model = make_model("llama", torch.float32)
    vocabulary = model.embeddings.shape[0]
    assert memory_budget(model) == batching.CPU_TOKENS
    monkeypatch.setattr(batching, "CPU_LOGITS", 341 * 3 * 4 * vocabulary)
    assert memory_budget(model) == 341
    bert = make_model("bert", torch.float32)  # a text of eight tokens or more has one row
    monkeypatch.setattr(batching, "CPU_LOGITS", 341 * 3 * 4 * bert.embeddings.shape[0])
    assert memory_budget(bert) == min(8 * 341, batching.CPU_TOKENS)


def test_a_batch_of_attribute_keeps_to_the_budget(small, monkeypatch):
    """The widest layer's tokens: (1 + steps x layers) times a text, or, left to right, its last one."""
    prompts = random_prompts(40, 3)
    gpt2 = make_model("gpt2")
    for model, tokens in ((small, lambda n: 13 * n), (gpt2, lambda n: 13 + n)):
        for batch in ScoreSettings().batches(model, prompts, 2000):
            longest = max(len(row.ids) for rows in batch.rows for row in rows)
            assert sum(map(len, batch.rows)) * tokens(longest) <= 2000 or len(batch.prompts) == 1
        assert len(list(ScoreSettings().batches(model, prompts, 2000))) > len(
            list(ScoreSettings().batches(model, prompts, 9000))
        )


def test_free_memory_is_what_the_system_says():
    found = free_memory(torch.device("cpu"))
    psutil = pytest.importorskip("psutil")
    if not Path("/proc/meminfo").exists():
        assert found == 2.0**31
    else:
        assert found == pytest.approx(psutil.virtual_memory().available, rel=0.1)


def _peak() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024.0


def _used() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024.0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "number", "length"), [("bert", 8, 20), ("gpt2", 60, 20)])
def test_a_pass_needs_what_the_budget_says_within_a_factor_of_three(kind, number, length, monkeypatch):
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        pytest.skip("needs /proc to measure")
    shape = {
        "bert": {"hidden_size": 256, "num_hidden_layers": 6, "intermediate_size": 1024},
        "gpt2": {"n_embd": 256, "n_layer": 6, "n_inner": 1024},
    }[kind]
    made = make_model(kind, torch.float32, **shape)
    made.model.resize_token_embeddings(8000, mean_resizing=False)
    model = LanguageModel(made.model, made.tokenizer)
    rows = [Row(i, [10 + (i + t) % 90 for t in range(length)], length - 1, 7) for i in range(number)]
    copies = 1 + 4 * 6
    tokens = number * (copies + length if model.causal else copies * length)
    monkeypatch.setattr(batching, "free_memory", lambda _: 2.0**27)
    predicted = tokens * 0.5 * 2.0**27 / memory_budget(model)
    run = partial(integrate, model)
    run(rows[:1])
    try:
        clear.write_text("5")
    except OSError:
        pytest.skip("this system does not let a process measure its peak anew")
    before = _used()
    result = run(rows)
    measured = _peak() - before
    assert isinstance(result, PassResult) and predicted > 2.0**27
    print(f"{kind}: predicted {predicted / 2**20:.0f} MiB, measured {measured / 2**20:.0f} MiB")
    assert predicted / 3 < measured < predicted * 3
