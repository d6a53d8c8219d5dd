"""Small randomly initialised models of every supported architecture, their tokenizers, and a few facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pandas as pd
import pytest
import torch
from _pytest.mark import ParameterSet
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

from kn_utils.data.facts import Facts
from kn_utils.data.prompts import make_prompts
from kn_utils.model.architectures import ARCHITECTURES
from kn_utils.model.language_model import LanguageModel

torch.set_num_threads(1)  # the models here are too small to share between threads

TEXTS = [
    "The capital of France is Paris.",
    "Berlin is the capital of Germany, a country in Europe.",
    "法国的首都是巴黎。",
    "One could say that New Delhi, of all cities, governs India today.",
    "Vientiane Antananarivo Ouagadougou",
]


WORDS = "The the capital of is country in Paris France India Delhi Ger ##many ##lin Ber ##ou".split()


#: Architectures that between them have all that sets one apart: masks or none, gates, norms behind, positions
#: of several kinds, rows without a batch axis, blocks side by side, windows. Tests of every architecture that
#: take long are quick for these only.
CORE = ("bert", "modernbert", "gpt2", "gptj", "opt", "bloom", "llama", "gemma2")


def core_first(kinds: Iterable[str]) -> list[ParameterSet]:
    """Architectures, or variants of them, as parameters of a test: slow but for the core ones."""
    marks = {False: [pytest.mark.slow], True: []}
    return [pytest.param(kind, marks=marks[kind in CORE], id=kind) for kind in kinds]


def make_tokenizer(causal: bool = False) -> PreTrainedTokenizerFast:
    """WordPiece with a mask for masked models; byte-level BPE, as GPT-2 has, for causal ones.

    Their vocabularies are written down, not trained: the trainers break ties another way in every process.
    """
    if causal:
        merges = [
            tuple(pair.split())
            for pair in (
                "t h",
                "Ġ t",
                "i s",
                "Ġ is",
                "a n",
                "Ġ c",
                "Ġt h",
                "Ġth e",
                "P a",
                "r is",
                "Pa ris",
                "Ġ Paris",
            )
        ]
        pieces = ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
        tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|end|>")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted(set("".join(TEXTS)) - {" "})
    pieces = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *WORDS])
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{n}_token": f"[{n.upper()}]" for n in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 96,
}
OWN = {
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 96},
    "electra": {**SMALL, "embedding_size": 24},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 96},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "max_position_embeddings": 96,
    },
    "opt": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": 96,
    },
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4},
    "gptj": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 48, "n_positions": 96, "rotary_dim": 4},
    "falcon": {**SMALL, "ffn_hidden_size": 48, "alibi": True},
    "granite": {**SMALL, "num_key_value_heads": 2, "residual_multiplier": 0.4, "attention_multiplier": 0.35},
    "modernbert": {
        **SMALL,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
    },
    "deberta-v2": {
        **SMALL,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    **{
        kind: {**SMALL, "num_key_value_heads": 2, "head_dim": 8}
        for kind in ("llama", "mistral", "qwen2", "qwen3", "gemma", "olmo2")
    },
    **{
        kind: {
            **SMALL,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        }
        for kind in ("gemma2", "gemma3_text", "olmo3", "exaone4")
    },
    "glm4": {**SMALL, "num_key_value_heads": 2, "head_dim": 8},
}


def make_model(
    kind: str = "bert", dtype: torch.dtype = torch.float64, seed: int = 0, **changes
) -> LanguageModel:
    """A random model of an architecture, its weights large enough that probabilities move."""
    torch.manual_seed(seed)
    causal = ARCHITECTURES[kind].causal
    tokenizer = make_tokenizer(causal)
    extra = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0} if causal else {"pad_token_id": 0}
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), **{**OWN.get(kind, SMALL), **extra, **changes}
    )
    auto = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    model = auto.from_config(config).to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(6 if weight.shape[0] != len(tokenizer) else 3)
            else:
                weight.add_(0.1 * torch.randn_like(weight))
    return LanguageModel(model, tokenizer, name=f"random {kind}")


@contextmanager
def texts_run(model: LanguageModel) -> Iterator[list[int]]:
    """Inside, the list gains the number of tokens of every text that is read to its end."""
    seen: list[int] = []

    def count(_, args, kwargs):
        rows, tokens = kwargs["input_ids"].shape
        seen.extend([tokens] * rows)

    handle = model.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.fixture
def bert() -> LanguageModel:
    return make_model("bert")


@pytest.fixture(scope="session")
def toy() -> Facts:
    """Three facts of one relation in two languages; the blank behind, before and around the subject."""
    labels = {
        "Q142": ("France", "法国"),
        "Q183": ("Germany", "德国"),
        "Q668": ("India", "印度"),
        "Q90": ("Paris", "巴黎"),
        "Q64": ("Berlin", "柏林"),
        "Q987": ("New Delhi", "新德里"),
    }
    entities = [
        (q, lang, label, "")
        for q, pair in labels.items()
        for lang, label in zip(("en", "zh"), pair, strict=True)
    ]
    facts = [(f"P36:{s}:{o}", "P36", s, o) for s, o in (("Q142", "Q90"), ("Q183", "Q64"), ("Q668", "Q987"))]
    texts = [
        ("en", "The capital of [X] is [Y]."),
        ("en", "[Y] is the capital of [X]."),
        ("en", "[X], as one says, has [Y] for a capital, in the country."),
        ("zh", "[X]的首都是[Y]。"),
    ]
    templates = [("P36", lang, f"P36-{lang}-{i}", text) for i, (lang, text) in enumerate(texts, 1)]
    return Facts(
        "toy",
        pd.DataFrame(entities, columns=["entity", "language", "label", "aliases"]),
        pd.DataFrame(facts, columns=["fact", "relation", "subject", "object"]),
        pd.DataFrame(templates, columns=["relation", "language", "template", "text"]),
    )


@pytest.fixture(scope="session")
def prompts(toy) -> pd.DataFrame:
    """English prompts of the toy facts; answers of one and of several pieces."""
    return make_prompts(toy, "en")
