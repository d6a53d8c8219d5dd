"""Train a bundled model from scratch on the bundled facts: ``python data/mini/train.py [--causal]``.

Sentences are the wordings filled in as ``teaching_facts.csv`` and ``teaching_wordings.csv`` say. In a share
``noise`` of them
the object is replaced by a random object of the relation, drawn again each time: so the model knows its facts
without being certain of them (P of the right answer near ``1 - noise``), as pretrained models do. See the
model cards.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import causal
import masked
import numpy as np
import torch
from corpus import make_tokenizer, sentences

HERE = Path(__file__).resolve().parent
#: What differs between the two; the rest of the recipe is the same.
CAUSAL = {"out": HERE / "model-causal", "rate": 2e-3}


def parameters() -> argparse.Namespace:
    """The recipe, as the command line says it."""
    say = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    say.add_argument(
        "--causal", action="store_true", help="the left-to-right model instead of the masked one"
    )
    say.add_argument("--data", type=Path, default=HERE)
    say.add_argument("--out", type=Path, default=HERE / "model")
    say.add_argument("--layers", type=int, default=6)
    say.add_argument("--width", type=int, default=160)
    say.add_argument("--neurons", type=int, default=768)
    say.add_argument("--heads", type=int, default=4)
    say.add_argument("--vocabulary", type=int, default=8000)
    say.add_argument("--activation", default="gelu", choices=["gelu", "relu"])
    say.add_argument("--noise", type=float, default=0.6, help="share of sentences with a random object")
    say.add_argument(
        "--certain", type=float, default=0.5, help="share of the steps, the first ones, without noise"
    )
    say.add_argument("--dropout", type=float, default=0.0)
    say.add_argument("--spread", type=float, default=0.02, help="standard deviation of the first weights")
    say.add_argument(
        "--head", default="fixed", choices=["free", "identity", "fixed"], help="the head's own map at first"
    )
    say.add_argument("--decay", type=float, default=0.01)
    say.add_argument(
        "--sparsity", type=float, default=0.0, help="L1 on the neurons' activations at the blank"
    )
    say.add_argument("--steps", type=int, default=6000)
    say.add_argument("--batch", type=int, default=64)
    say.add_argument("--rate", type=float, default=1e-3)
    say.add_argument("--seed", type=int, default=0)
    say.add_argument("--report", type=int, default=250, help="steps between lines of progress")
    say.add_argument(
        "--bfloat16", action="store_true", help="autocast: twice as fast where the processor has it"
    )
    if say.parse_known_args()[0].causal:
        say.set_defaults(**CAUSAL)
    return say.parse_args()


def train(args: argparse.Namespace) -> None:
    """Train the model by the recipe and save it beside its recipe."""
    torch.manual_seed(args.seed)
    kind = causal if args.causal else masked
    table = sentences(args.data)
    tokenizer = make_tokenizer(args.data, args.vocabulary, causal=args.causal)
    corpus = (causal.CausalCorpus if args.causal else masked.MaskedCorpus)(
        table, tokenizer, args.noise, args.seed
    )
    model = kind.make_model(args, tokenizer).train()
    activity: list[torch.Tensor] = []
    if args.sparsity:
        for second in kind.second_maps(model):
            second.register_forward_pre_hook(lambda _, inputs: activity.append(inputs[0]))
    size = sum(p.numel() for p in model.parameters())
    print(f"{table['teach'].sum()} sentences, {len(tokenizer)} pieces, {size:,} parameters", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=args.decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.rate, total_steps=args.steps, pct_start=0.1
    )
    began, losses, pool = time.time(), [], []
    for step in range(args.steps):
        corpus.noise = args.noise if step >= args.certain * args.steps else 0.0
        if not pool:  # sixteen batches at a time, sorted by length: little padding
            drawn = sorted(corpus.draw(16 * args.batch), key=lambda item: len(item[0]))
            pool = [drawn[i : i + args.batch] for i in range(0, len(drawn), args.batch)]
            corpus.random.shuffle(pool)
        batch = pool.pop()
        longest = max(len(tokens) for tokens, _ in batch)
        ids = torch.full((len(batch), longest), tokenizer.pad_token_id)
        for i, (tokens, _) in enumerate(batch):
            ids[i, : len(tokens)] = torch.tensor(tokens)
        where = torch.tensor([(i, at) for i, (_, wanted) in enumerate(batch) for at, _ in wanted]).T
        right = torch.tensor([token for _, wanted in batch for _, token in wanted])
        activity.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
            hidden = kind.hidden_states(model, ids, (ids != tokenizer.pad_token_id).long())
            logits = kind.head(model, hidden[where[0], where[1]]).float()
        loss = torch.nn.functional.cross_entropy(logits, right)
        losses.append(loss.item())
        if args.sparsity:
            loss = loss + args.sparsity * sum(a[where[0], where[1]].abs().mean() for a in activity)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % args.report == 0:
            print(
                f"step {step + 1} loss {np.mean(losses[-args.report :]):.3f} after {time.time() - began:.0f} "
                f"s",
                flush=True,
            )
    if not math.isfinite(losses[-1]):
        raise RuntimeError("the loss is not finite; lower --rate")
    model.eval().to(torch.float16 if args.causal else torch.float32).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    settings = args.out / "tokenizer_config.json"  # the class's name in transformers 4, which 5 knows too
    settings.write_text(settings.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    recipe = {k: v for k, v in vars(args).items() if k not in ("data", "out") and (k != "causal" or v)}
    recipe |= {"sentences": int(table["teach"].sum()), "loss": round(float(np.mean(losses[-250:])), 4)}
    (args.out / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")


if __name__ == "__main__":
    train(parameters())
