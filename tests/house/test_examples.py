"""Every public name shows how it is used, and the examples give what they say."""

from __future__ import annotations

import doctest

import pytest

import kn_utils

RUNNER = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)


def examples(name: str) -> doctest.DocTest:
    """The examples that stand in a public name's own docstring."""
    text = getattr(kn_utils, name).__doc__ or ""
    _, _, block = text.partition("Example:\n")
    return doctest.DocTestParser().get_doctest(block, {}, name, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("name", kn_utils.__all__)
def test_public_name_has_an_example_that_runs(name):
    found = examples(name)
    assert found.examples, f"the docstring of kn_utils.{name} should hold an Example: block"
    assert any(name in line.source for line in found.examples), f"the example does not use {name}"
    told: list[str] = []
    result = RUNNER.run(found, out=told.append)
    assert result.failed == 0, "".join(told)


def test_a_wrong_example_is_noticed():
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert RUNNER.run(wrong, out=lambda text: None).failed == 1
