"""What scores depend on besides model and prompts, and how a batch of rows is scored by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from ..checks import ASKED, check_model, check_numbers, check_prompts, check_words
from ..data.prompts import from_texts
from ..model.language_model import LanguageModel
from ..model.rows import Row
from .batching import Batch, Halving, batches, memory_budget
from .error_control import TOLERANCE, Controlled, Sampled, Task, first_pass, sample
from .kernel import PassResult, check_options, chosen_layers, integrate, without_copies
from .pieces import PIECE, PIECES, each_piece, of_pieces, with_decoded_answers
from .precision import rounds_products
from .quadrature import AttributionError, quadrature
from .reading import RELATION_MEAN, from_relation_means, read_neurons
from .targets import TARGETS, deciding_rows_of, rows_of, scale_of, with_candidates

METHODS = ("integrated-gradients", "activation")
#: Points of a fixed rule where nothing else is said.
STEPS = 4


@dataclass(frozen=True)
class ScoreSettings:
    """What scores depend on besides model and prompts: the arguments of :func:`kn_utils.attribute`."""

    method: str = "integrated-gradients"
    rule: str = "auto"
    steps: int | None = None
    tolerance: float | None = None
    baseline: str = "zero"
    multiplier: str = "difference"
    norm: str = "free"
    layers: tuple[int, ...] | None = None
    precision: str | None = None
    batch_size: int | None = None
    unknown: str = "refuse"
    keep: float = 0.1
    gap: bool = False
    target: str = "answer"
    pieces: str = "mean"
    answer: str = "gold"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise AttributionError(f"unknown method {self.method!r}; known: {', '.join(METHODS)}.")
        check_numbers(keep=self.keep, steps=self.steps, tolerance=self.tolerance, batch_size=self.batch_size)
        check_words(("refuse", "allow"), unknown=self.unknown)
        check_words(("gold", "decoded"), answer=self.answer)
        if self.answer == "decoded" and self.compares:
            raise AttributionError(
                "what the model says need not be among candidates: answer='decoded' has none."
            )
        if self.target not in TARGETS:
            raise AttributionError(f"unknown target {self.target!r}; known: {', '.join(TARGETS)}.")
        if self.pieces not in PIECES:
            raise AttributionError(f"unknown pieces {self.pieces!r}; known: {', '.join(PIECES)}.")
        if self.pieces != "mean" and self.target == "typed":
            raise AttributionError(
                f"pieces={self.pieces!r} are asked for over the vocabulary; what target='typed' asks for are "
                "the places where names part."
            )
        if self.compares and self.unknown != "refuse":
            what = "target='typed'" if self.target == "typed" else "pieces='deciding'"
            raise AttributionError(f"{what} tells answers apart by their pieces: it needs unknown='refuse'.")
        if self.tolerance is not None and self.steps is not None:
            raise AttributionError("steps fixes the number of points, tolerance the error: give one of them.")
        if self.rule != "auto" or self.steps is not None:
            # refuses what it does not know
            quadrature(self.fixed, STEPS if self.steps is None else self.steps)

    @property
    def compares(self) -> bool:
        """Whether candidates say what is asked for."""
        return self.target == "typed" or self.pieces == "deciding"

    @property
    def fixed(self) -> str:
        """The rule of a fixed number of points that ``auto`` with ``steps`` means."""
        return "gauss-legendre" if self.rule == "auto" else self.rule

    @property
    def points(self) -> int:
        """Points of a first or only pass."""
        if self.method == "activation":
            return 0
        return 1 if self.rule == "gradient" else STEPS if self.steps is None else self.steps

    def chosen(self, model: LanguageModel) -> list[int]:
        """The layers asked for."""
        return chosen_layers(model, self.layers)

    def resolved(self, model: LanguageModel) -> ScoreSettings:
        """The same with ``auto`` decided for this model.

        The gradient where no path has an integral, else a tolerance; a fixed rule with ``steps``, and where
        products are rounded so much that an estimated error would be theirs.
        """
        check_options(model, self.baseline, self.multiplier, self.norm)
        self._check_tolerance(model)
        if self.rule != "auto" or self.method == "activation":
            return replace(self, gap=self.gap and self.rule != "gradient")
        if self.steps is not None:
            return replace(self, rule=self.fixed)
        if model.norms_output and self.norm == "free":
            return replace(self, rule="gradient", gap=False)
        if rounds_products(model, self.precision):
            return replace(self, rule=self.fixed, steps=STEPS)
        return replace(self, tolerance=TOLERANCE if self.tolerance is None else self.tolerance)

    def _check_tolerance(self, model: LanguageModel) -> None:
        """Refuse a tolerance that a rule, a model or a precision cannot have."""
        if self.tolerance is None:
            return
        if self.rule != "auto":
            raise AttributionError(
                f"rule={self.rule!r} has a fixed number of points; a tolerance needs rule='auto'."
            )
        if model.norms_output and self.norm == "free":
            raise AttributionError(
                "this model normalises a feed-forward output before it is added, so the papers' path has no "
                "integral and no tolerance can be met: use rule='gradient', or norm='held'."
            )
        if rounds_products(model, self.precision):
            rounded = self.precision or str(model.dtype).removeprefix("torch.")
            raise AttributionError(
                f"products rounded to {rounded} hide how far an integral is off, so no tolerance can be met: "
                "leave it out (four points are taken), or compute in float32."
            )

    def scorer(self, model: LanguageModel) -> Halving | Controlled:
        """What scores rows, in as many passes as memory and tolerance ask for."""
        settings, layers = self.resolved(model), self.chosen(model)
        first = Halving(partial(settings.score, model), layers)
        if settings.tolerance is None or settings.method == "activation":
            return first
        return Controlled(first, partial(settings.sample, model), layers, model.n_layers, settings.tolerance)

    def score(self, model: LanguageModel, rows: list[Row], layers: list[int]) -> PassResult:
        """Scores of rows at layers, by one pass; whoever reads them looks whether they are finite."""
        if self.method == "activation":
            values, p = read_neurons(model, rows, self.precision)
            return PassResult(values[:, layers], p, None)
        path: dict[str, Any] = {"baseline": self.baseline, "precision": self.precision}
        path["scale"] = scale_of(self.target)
        if self.rule == "auto":
            return first_pass(
                model,
                rows,
                layers,
                multiplier=self.multiplier,
                held=self.norm == "held",
                change=self.gap,
                **path,
            )
        return integrate(
            model,
            rows,
            rule=self.rule,
            steps=STEPS if self.steps is None else self.steps,
            multiplier=self.multiplier,
            norm=self.norm,
            layers=layers,
            gap=self.gap,
            check=False,
            **path,
        )

    def sample(self, model: LanguageModel, tasks: list[Task]) -> Sampled:
        """What lies along the paths that the tasks ask for, in as many passes as memory asks for."""
        path: dict[str, Any] = {
            "baseline": self.baseline,
            "held": self.norm == "held",
            "scale": scale_of(self.target),
            "precision": self.precision,
        }
        return Halving(lambda tasks, _: sample(model, tasks, multiplier=self.multiplier, **path), [0])(tasks)

    def encoder(self, model: LanguageModel) -> Callable[[pd.DataFrame], list[Row]]:
        """From prompts, as :meth:`asked` gives them, to rows."""
        if self.target == "typed":
            return partial(rows_of, model)
        if self.pieces == "deciding":
            return partial(deciding_rows_of, model)
        return of_pieces(partial(model.encode, unknown=self.unknown), self.pieces)

    def batches(
        self, model: LanguageModel, prompts: pd.DataFrame, budget: int | None = None
    ) -> Iterator[Batch]:
        """The table's batches: of ``batch_size`` rows, else of ``budget`` tokens in the widest layer."""
        encode = self.encoder(model)
        if self.baseline == RELATION_MEAN:
            encode = from_relation_means(model, prompts, encode, self.precision)
        if self.batch_size is not None:
            return batches(encode, prompts, lambda length: 1, self.batch_size)
        asked = self.resolved(model)
        alone = without_copies(asked.rule, asked.norm)
        copies = 1 if alone else asked.points * len(self.chosen(model))

        def tokens(length: int) -> int:
            many = 1 + copies * (length if self.baseline == "replacement-each" else 1)
            return many + length if model.causal else many * length

        return batches(encode, prompts, tokens, budget or memory_budget(model, self.precision))

    def asked(
        self, model: LanguageModel, prompts: pd.DataFrame, candidates: Sequence[Sequence[str]] | None = None
    ) -> pd.DataFrame:
        """The prompts as batches are made of them: for the typed target with their candidates."""
        check_model(model)
        prompts = from_texts(prompts)
        if isinstance(prompts, pd.DataFrame):
            prompts = prompts.drop(columns=PIECE, errors="ignore")  # a name that scores may use
        check_prompts(prompts, f"{ASKED} fact relation" if self.baseline == RELATION_MEAN else ASKED)
        if prompts.empty:
            raise AttributionError(
                "no prompts: the table is empty. Is there a fact of this relation with a label in this "
                "language?"
            )
        if self.answer == "decoded":
            prompts = with_decoded_answers(model, prompts)
        if self.compares:
            return with_candidates(model, prompts, candidates)
        if candidates is not None:
            raise AttributionError("candidates are for target='typed' and pieces='deciding'.")
        if self.pieces == "each":
            return each_piece(partial(model.encode, unknown=self.unknown), prompts)
        return prompts


def layers_asked(layers: Sequence[int] | None) -> tuple[int, ...] | None:
    """Layers as settings hold them; an error says what is no list of layers."""
    if layers is None:
        return None
    listed = tuple(layers) if isinstance(layers, Sequence | range) and not isinstance(layers, str) else ()
    whole = all(isinstance(layer, int) and not isinstance(layer, bool) for layer in listed)
    if not listed or not whole or len(set(listed)) < len(listed):
        raise AttributionError(f"layers={layers!r}; it is a list of different ones such as [0, 1], or None.")
    return listed
