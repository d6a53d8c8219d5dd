"""The program that does what a look around did: the same calls, the same numbers, without widgets."""

from __future__ import annotations

from ..model.edits import ValueEdit
from ..run.parameters import StudyParameters
from .question import Question
from .state import Factors, by_factor


def program(
    parameters: StudyParameters,
    dtype: str,
    question: Question,
    k: int,
    factors: Factors | None = None,
    new: str | None = None,
    edit: ValueEdit | None = None,
) -> str:
    """A Python program that asks the question, finds its neurons, and acts on them.

    Args:
        parameters: which model, data set and rule.
        dtype: the model's number format.
        question: what is asked.
        k: how many neurons.
        factors: (layer, neuron) -> what it is multiplied by.
        new, edit: the new answer, and the edit; ``None``: nothing is edited.

    Returns:
        its text; run, it leaves ``neurons``, ``before``, and where something acts ``after`` and ``edited``.
    """
    groups = by_factor(factors or {})
    signed = bool(new and edit and edit.signed)
    names = ["attribute", "load_facts", "load_model", "make_prompts"]
    names += ["amplify"] * bool(groups) + ["update_fact"] * bool(new and edit and not signed)
    lines = [f"from kn_utils import {', '.join(sorted(names))}"]
    if signed:
        lines += ["from kn_utils.model.answers import questions_of"]
        lines += ["from kn_utils.model.edits import Request, ValueEdit"]
    lines += ["from kn_utils.model.typed import candidates_of, typed_answers"]
    lines += [f"from kn_utils.neurons.choose import {'as_pairs, ' * signed}strongest"]
    lines += ["", *_loading(parameters, dtype), *_asking(question), ""]
    lines += [f"scores = attribute(model, prompts, {_rule(parameters)}progress=False)"]
    lines += [f"neurons = strongest(scores, prompts, None, None, {k})"]
    lines += ["before = typed_answers(model, asked, candidates, progress=False)"]
    lines += ["print(neurons)", "print(before.T)"]
    if groups:
        acts = [f"amplify(model, {sorted(own)}, factor={factor!r})" for factor, own in groups.items()]
        lines += ["", f"with {', '.join(acts)}:"]
        lines += ["    after = typed_answers(model, asked, candidates, progress=False)", "print(after.T)"]
    if new and edit:
        lines += ["", *_editing(question, new, edit)]
    return "\n".join(lines) + "\n"


def _loading(parameters: StudyParameters, dtype: str) -> list[str]:
    revision = f", {parameters.revision!r}" if parameters.revision else ""
    return [
        f"model = load_model({parameters.model!r}{revision}, device={parameters.device!r}, dtype={dtype!r})",
        f'every = make_prompts(load_facts({parameters.dataset!r}), "all")',
    ]


def _asking(question: Question) -> list[str]:
    """Lines that make ``prompts`` (all wordings), ``asked`` (the one shown) and ``candidates``."""
    if question.prompts["template"].eq("own").all():
        row = {name: str(value) for name, value in question.asked.iloc[0].items()}
        lines = ["import pandas as pd", "", f"prompts = asked = pd.DataFrame([{row!r}])"]
    else:
        lines = ["names = [", *(f"    {name!r}," for name in question.prompts["prompt"]), "]"]
        lines += ['prompts = every[every["prompt"].isin(names)].reset_index(drop=True)']
        lines += [f"asked = prompts.iloc[[{question.number}]].reset_index(drop=True)"]
    return [*lines, "candidates = candidates_of(asked, every)"]


def _rule(parameters: StudyParameters) -> str:
    steps = f"steps={parameters.steps}, " if parameters.steps else ""
    return f"rule={parameters.rule!r}, {steps}keep={parameters.keep}, "


def _editing(question: Question, new: str, edit: ValueEdit) -> list[str]:
    old = question.answer
    head = [f"wanted = asked.assign(answer={new!r})", f"names = [sorted({{*candidates[0], {new!r}}})]"]
    if not edit.signed:
        act = f"update_fact(model, neurons, old={old!r}, new={new!r}, l1={edit.l1!r}, l2={edit.l2!r})"
        lines = [f"with {act}:", "    edited = typed_answers(model, wanted, names, progress=False)"]
    else:
        request = f"Request(as_pairs(neurons), {old!r}, {new!r}, questions_of(model, wanted)[0])"
        lines = [f"request = {request}", f"edit = ValueEdit({edit.l1!r}, {edit.l2!r}, signed=True)"]
        lines += ["changes = edit.changes(model, [request])"]
        lines += ["edited = typed_answers(model, wanted, names, changes, progress=False)"]
    return [*head, *lines, "print(edited.T)"]
