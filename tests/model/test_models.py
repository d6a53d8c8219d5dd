"""Where the neurons are, and loading: folders, refusals, and a stand-in of the Hub's file endpoint."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from conftest import core_first, make_model, make_tokenizer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.pytorch_utils import Conv1D

from kn_utils.data.downloads.identity import BUNDLED
from kn_utils.data.facts import DataError
from kn_utils.model import loading as models
from kn_utils.model.answers import answer_probability
from kn_utils.model.architectures import ARCHITECTURES, ModelError
from kn_utils.model.language_model import LanguageModel
from kn_utils.model.loading import choose_device, load_model
from kn_utils.model.rows import Row

# What conftest asks for; GPT-2, GPT-Neo and BLOOM have four times their width where nothing else is said.
SHAPE = {kind: (3, 48) for kind in ARCHITECTURES} | {"gpt2": (3, 128), "gpt_neo": (2, 128), "bloom": (3, 128)}
MASKED = {"bert", "roberta", "xlm-roberta", "distilbert", "electra", "deberta-v2", "modernbert"}


# Where the neurons are


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_shape_and_kind(kind):
    model = make_model(kind)
    assert (model.n_layers, model.n_neurons) == SHAPE[kind]
    assert model.causal == (kind not in MASKED)
    assert model.dtype == torch.float64 and model.device == torch.device("cpu")
    assert not model.model.training and not any(p.requires_grad for p in model.model.parameters())
    assert (
        repr(model)
        == f"LanguageModel('random {kind}', {kind}, {SHAPE[kind][0]} layers x {SHAPE[kind][1]} neurons)"
    )


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_value_slots_are_what_a_neuron_adds_and_writing_to_them_edits_the_model(kind):
    model = make_model(kind)
    second, slots = model.seconds[1], model.value_slots(1)
    assert isinstance(second, Conv1D if kind == "gpt2" else nn.Linear | Conv1D)
    one = torch.zeros(1, 1, model.n_neurons, dtype=torch.float64)
    map_ = nn.functional.linear if isinstance(second, nn.Linear) else lambda x, w: x @ w
    one[..., 7] = 1
    torch.testing.assert_close(map_(one, second.weight)[0, 0], slots[7])
    assert slots.untyped_storage().data_ptr() == second.weight.untyped_storage().data_ptr()
    slots[7] = 0.5
    assert (map_(one, second.weight) == 0.5).all()
    assert (model.value_slots(0)[7] != 0.5).any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", core_first(ARCHITECTURES))
def test_batches_are_padded_right_and_logits_are_those_of_a_full_pass(kind, prompts):
    model = make_model(kind)
    if model.causal:
        prompts = prompts[~prompts["text"].str.startswith("[Y]")]
    rows = model.encode(prompts)
    assert len({len(row.ids) for row in rows}) > 1
    inputs, at, wanted = model.batch(rows)
    for i, row in enumerate(rows):
        n = len(row.ids)
        assert inputs["input_ids"][i, :n].tolist() == row.ids and set(
            inputs["input_ids"][i, n:].tolist()
        ) <= {0}
        assert inputs["attention_mask"][i].tolist() == [1] * n + [0] * (inputs["input_ids"].shape[1] - n)
    assert at.tolist() == [row.position for row in rows] and wanted.tolist() == [row.target for row in rows]
    assert "attention_mask" not in model.batch(rows[:1] * 2)[0], "none is needed there"
    found = model.logits(inputs, at)
    assert found.shape == (len(rows), len(model.tokenizer))
    for logits, row in zip(found, rows, strict=True):
        alone = model.model(input_ids=torch.tensor([row.ids])).logits[0, row.position]
        torch.testing.assert_close(
            logits, alone, rtol=1e-5, atol=1e-6
        )  # BLOOM and GPT-Neo compute parts in float32


def test_the_head_sees_everything_again_afterwards(bert, prompts):
    inputs, at, _ = bert.batch(bert.encode(prompts))
    with pytest.raises(RuntimeError, match="stop"), bert.head_at(at):
        assert bert.model(**inputs).logits.shape[1] == 1
        raise RuntimeError("stop")
    assert bert.model(**inputs).logits.shape[:2] == inputs["input_ids"].shape


@pytest.mark.parametrize("kind", core_first(ARCHITECTURES))
def test_a_prompt_that_is_let_through_can_be_run(kind, prompts):
    model = make_model(kind)  # 96 positions

    def encoded(words: int) -> list[Row]:
        return model.encode(prompts.iloc[[0]].assign(text="a " * words + "[Y].", answer="o"))

    short, longer = (len(encoded(words)[0].ids) for words in (20, 21))
    start = 20 + (88 - short) // (longer - short)
    lengths = []
    for words in range(start, start + 12):
        try:
            rows = encoded(words)
        except DataError as error:
            assert "the model takes" in str(error)
            break
        lengths.append(len(rows[0].ids))
        if lengths[-1] >= 90:
            assert model.logits(*model.batch(rows)[:2]).isfinite().all()
    assert kind == "bloom" or 90 <= max(lengths) <= 96  # BLOOM has no positions to run out of


def test_a_masked_model_needs_a_mask(bert):
    tokenizer = make_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(
        ModelError, match="the tokenizer of 'here' has no mask token; bert cannot be asked without one"
    ):
        LanguageModel(bert.model, tokenizer, name="here")


def tiny_t5() -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(
        T5Config(vocab_size=20, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2)
    )


def test_an_architecture_that_is_not_in_the_table():
    with pytest.raises(
        ModelError,
        match=r"'t5' is not supported; known: bert, .*kn_utils\.model\.architectures\.ARCHITECTURES",
    ):
        LanguageModel(tiny_t5(), make_tokenizer())


# Loading a folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A small BERT with its tokenizer, as save_pretrained leaves it."""
    return save(tmp_path_factory.mktemp("models") / "bert")


def save(folder: Path, kind: str = "bert") -> Path:
    model = make_model(kind, torch.float32)
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def change_config(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def fingerprint(model: LanguageModel) -> str:
    weights = model.model.state_dict()
    return hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights))).hexdigest()


def test_a_folder(saved, prompts):
    model = load_model(str(saved))
    stored = load_file(saved / "model.safetensors")
    assert all(torch.equal(model.model.state_dict()[name], value) for name, value in stored.items())
    assert (model.n_layers, model.n_neurons, model.name, model.dtype) == (3, 48, str(saved), torch.float32)
    assert answer_probability(model, prompts)["probability"].between(0, 1).all()


def test_a_causal_folder(tmp_path, prompts):
    model = load_model(str(save(tmp_path / "gpt2", "gpt2")))
    assert model.causal and model.n_neurons == 128
    assert len(answer_probability(model, prompts[prompts["text"].str.endswith("[Y].")])) == 3


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_dtypes(saved, dtype):
    model = load_model(str(saved), dtype=dtype)
    assert {p.dtype for p in model.model.parameters()} == {getattr(torch, dtype)}


def test_a_folder_under_the_home_folder(saved, monkeypatch):
    monkeypatch.setenv("HOME", str(saved.parent))
    assert load_model(f"~/{saved.name}").n_layers == 3


def test_the_bundled_model():
    model = load_model()
    assert model.model.config.model_type == "bert" and 6 <= model.n_layers <= 12
    weights = [file for file in BUNDLED["mini"].iterdir() if file.suffix in (".safetensors", ".bin", ".pt")]
    assert [file.name for file in weights] == ["model.safetensors"] and weights[0].stat().st_size <= 16e6


@pytest.mark.parametrize("name", ["nonsense", "./nowhere", "/no/where", "a/b/c", "~/nowhere", "../x"])
def test_a_name_that_is_nothing(name):
    with pytest.raises(ModelError) as caught:
        load_model(name)
    assert str(caught.value) == (
        f"unknown model {name!r}: neither a registered name (mini, mini-causal, gemma3, smollm2, "
        "mbert-uncased, mbert-cased), nor a folder, nor a GGUF file, nor a Hub id owner/name."
    )


def test_a_registered_folder_that_is_gone_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(models.REGISTERED, "mini", str(tmp_path / "gone"))
    with pytest.raises(ModelError, match=str(tmp_path / "gone")):
        load_model("mini")


def test_an_unknown_dtype_and_a_device_that_is_not_there(saved, monkeypatch):
    with pytest.raises(ModelError, match=r"unknown dtype 'int8'; known: float32, float64, bfloat16\."):
        load_model(str(saved), dtype="int8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    for device in ("cuda", "cuda:1"):
        with pytest.raises(ModelError, match=f"device '{device}' was asked for, and torch sees none"):
            load_model(str(saved), device=device)


@pytest.mark.parametrize("device", ["gpu", "mps"])
def test_a_device_of_another_name(saved, device):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one here")
    with pytest.raises(ModelError, match=device):
        load_model(str(saved), device=device)


def test_an_unsupported_architecture_on_disk(tmp_path):
    tiny_t5().save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=f"{tmp_path}: architecture 't5' is not supported; known: bert, roberta"
    ):
        load_model(str(tmp_path))


def test_weights_that_are_not_finite(folder):
    weights = load_file(folder / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    weights[name][3, 5] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ModelError, match=f"{folder}: weight {name} holds NaN or infinite values; load or train it"
    ):
        load_model(str(folder))


NEEDS = r"cannot be read \(.+\); it needs config\.json, tokenizer files and \*\.safetensors\.$"


@pytest.mark.parametrize(
    "lost", [["config.json"], ["model.safetensors"], ["tokenizer.json", "tokenizer_config.json"]]
)
def test_a_folder_without_one_of_its_files(folder, lost):
    for name in lost:
        (folder / name).unlink()
    with pytest.raises(ModelError, match=NEEDS) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_an_empty_folder(tmp_path):
    with pytest.raises(ModelError, match=NEEDS):
        load_model(str(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_with_half_a_file(folder, name):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=NEEDS) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)


def test_weights_that_lack_a_part_are_refused_not_made_up(folder):
    # transformers would fill in random numbers and warn
    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.2.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"layer\.2\.output\.dense\.weight"):
        load_model(str(folder))


def test_only_safetensors_are_read(folder):
    ran = folder / "ran"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (ran,))

    torch.save({"trap": Trap(), **load_file(folder / "model.safetensors")}, folder / "pytorch_model.bin")
    load_model(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"safetensors"):
        load_model(str(folder))
    assert not ran.exists()


@pytest.mark.parametrize("kind", ["bert", "something-new"])
def test_a_models_own_code_is_never_run_whatever_is_answered(folder, kind, monkeypatch):
    ran = folder / "ran"
    code = (
        f"open({str(ran)!r}, 'w')\nfrom transformers import BertConfig, BertForMaskedLM\n"
        "class C(BertConfig): model_type = 'something-new'\nclass M(BertForMaskedLM): config_class = C\n"
    )
    (folder / "own.py").write_text(code)
    change_config(folder, model_type=kind, auto_map={"AutoConfig": "own.C", "AutoModelForMaskedLM": "own.M"})
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    if kind == "bert":
        assert load_model(str(folder)).n_layers == 3
    else:
        with pytest.raises(ModelError, match="cannot be read|not supported"):
            load_model(str(folder))
    assert not ran.exists()


# The Hub


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A Hub's file endpoint on this machine: ``owner/small`` at v1, ``owner/pickled`` without safetensors."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, str]] = []
        self.cutting = False  # send half of the weights and hang up, then only hang up

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            do_HEAD = do_GET = do_POST = do_CONNECT = lambda handler: self.answer(handler)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append((handler.command, handler.path))
        parts = handler.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) in (4, 6):
            return self.info(handler, "/".join(parts[2:4]), parts[5] if len(parts) == 6 else "main")
        if len(parts) == 5 and parts[2] == "resolve":
            return self.file(handler, "/".join(parts[:2]), parts[3], parts[4])
        return self.send(handler, 404, b"not here")

    def missing(self, repo: str, revision: str) -> str | None:
        """The Hub's own word for what it does not have."""
        if repo not in ("owner/small", "owner/pickled"):
            return "RepoNotFound"
        return None if revision in ("v1" if repo == "owner/small" else "main", COMMIT) else "RevisionNotFound"

    def info(self, handler: BaseHTTPRequestHandler, repo: str, revision: str) -> None:
        if code := self.missing(repo, revision):
            return self.send(handler, 404, b"{}", {"X-Error-Code": code})
        info = {"id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": [], "siblings": []}
        return self.send(handler, 200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def file(self, handler: BaseHTTPRequestHandler, repo: str, revision: str, name: str) -> None:
        path = self.folder / name
        code = self.missing(repo, revision)
        if code is None and not path.is_file() or repo == "owner/pickled" and path.suffix == ".safetensors":
            code = "EntryNotFound"
        if code:
            return self.send(handler, 404, b"", {"X-Error-Code": code, "X-Repo-Commit": COMMIT})
        content = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if asked := handler.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.send(handler, 206, content[start:], headers, cut=name.endswith(".safetensors"))
        return self.send(handler, 200, content, headers, cut=name.endswith(".safetensors"))

    def send(
        self, handler, status: int, content: bytes, headers: dict[str, str] | None = None, cut: bool = False
    ) -> None:
        half = self.cutting and cut and handler.command == "GET"
        if half and status == 206:
            handler.close_connection = True
            return
        handler.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content[: len(content) // 2] if half else content)
        handler.close_connection |= half


@pytest.fixture(scope="module")
def hub(saved):
    hub = Hub(saved)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def ask_for(calls: list[list[str]], hub: Hub, home: Path, **environment: str) -> list[dict]:
    """Run calls in a process of their own, whose Hub is ours: what each gave, or its error."""
    code = """
import hashlib, json, sys
from kn_utils import ModelError, load_model
for call in json.loads(sys.argv[1]):
    try:
        model = load_model(*call)
    except ModelError as error:
        print(json.dumps({"error": str(error)}))
    else:
        w = model.model.state_dict()
        digest = hashlib.sha256(b"".join(w[n].numpy().tobytes() for n in sorted(w))).hexdigest()
        print(json.dumps({"revision": model.revision, "name": model.name, "digest": digest}))
"""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
    }
    own |= {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(home),
        "HTTPS_PROXY": hub.address,
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-c", code, json.dumps(calls)]
    hub.asked.clear()
    done = subprocess.run(command, env=own | environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def cache(hub, saved, tmp_path_factory) -> tuple[Path, list[dict], list[tuple[str, str]]]:
    """A cache with ``owner/small`` fetched into it, what that call gave, and what was asked of the Hub."""
    home = tmp_path_factory.mktemp("online")
    return home, ask_for([["owner/small", "v1"]], hub, home), list(hub.asked)


@pytest.mark.slow
def test_a_hub_id_and_a_revision_online(cache, saved):
    _, (found,), asked = cache
    assert found == {"name": "owner/small", "revision": "v1", "digest": fingerprint(load_model(str(saved)))}
    files = [path for _, path in asked if "/resolve/" in path]
    assert any(path.endswith("/model.safetensors") for path in files)
    assert all(path.split("/")[4] in ("v1", COMMIT) for path in files)  # never another revision
    assert not any(path.endswith((".bin", ".py")) for path in files)


@pytest.mark.slow
def test_offline_from_the_cache(cache, hub):
    home, (online,), _ = cache
    again, other = ask_for([["owner/small", "v1"], ["owner/small", "v2"]], hub, home, HF_HUB_OFFLINE="1")
    assert again == online and hub.asked == []
    assert "model 'owner/small' at revision v2 is not in the local cache" in other["error"]


@pytest.mark.slow
def test_offline_with_an_empty_cache_says_how_to_get_it(hub, tmp_path):
    pinned, plain = ask_for([["owner/small", "v1"], ["mbert-cased"]], hub, tmp_path, HF_HUB_OFFLINE="1")
    assert pinned["error"].startswith("model 'owner/small' at revision v1 is not in the local cache")
    assert "run `hf download owner/small --revision v1`" in pinned["error"]
    assert "copy its folder here and pass the folder's path" in pinned["error"]
    assert "run `hf download google-bert/bert-base-multilingual-cased`;" in plain["error"]
    assert hub.asked == [] and "\n" not in pinned["error"]


@pytest.mark.slow
def test_what_the_hub_does_not_have(hub, tmp_path):
    revision, repo = ask_for([["owner/small", "v9"], ["owner/none"]], hub, tmp_path)
    assert (
        "model 'owner/small' at revision v9" in revision["error"]
        and "not a valid git identifier" in revision["error"]
    )
    assert "model 'owner/none'" in repo["error"] and "not a valid model identifier" in repo["error"]


@pytest.mark.slow
def test_a_hub_model_without_safetensors_is_refused_and_nobody_is_told(hub, tmp_path):
    # transformers would look for a converted copy in the repository's pull requests, or ask a service for one
    (found,) = ask_for([["owner/pickled"]], hub, tmp_path)
    assert [asked for asked in hub.asked if asked[0] not in ("GET", "HEAD")] == []
    assert [path for _, path in hub.asked if "/commits" in path or "/discussions" in path] == []
    assert "safetensors" in found["error"] and "pytorch_model.bin" not in found["error"]


@pytest.mark.slow
def test_an_interrupted_download_is_not_taken_for_whole(hub, saved, tmp_path):
    calls = [["owner/small", "v1"]]
    hub.cutting = True
    try:
        (broken,) = ask_for(calls, hub, tmp_path)
    finally:
        hub.cutting = False
    assert "model 'owner/small' at revision v1" in broken["error"] and "hf download" in broken["error"]
    assert list(tmp_path.rglob("config.json")) and not list(tmp_path.rglob("model.safetensors"))
    (offline,) = ask_for(calls, hub, tmp_path, HF_HUB_OFFLINE="1")
    assert "model 'owner/small' at revision v1 is not in the local cache" in offline["error"]
    (whole,) = ask_for(calls, hub, tmp_path)
    assert whole["digest"] == fingerprint(load_model(str(saved)))
