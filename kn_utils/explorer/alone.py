"""One thing at a time: JupyterLab handles widgets' events in a thread of their own, beside the cells'.

Two threads that act on one model would see each other's silenced neurons, and two that use one tokenizer get
errors. So whatever asks an explorer's model holds its lock.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import FunctionType
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)


def one_at_a_time(cls: Class) -> Class:
    """A class whose public methods hold the ``lock`` of their object (a reentrant one) while they work."""
    for name, method in list(vars(cls).items()):
        if isinstance(method, FunctionType) and not name.startswith("_"):
            setattr(cls, name, _locked(method))
    return cls


def _locked(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(self: Any, *given: Any, **named: Any) -> Any:
        with self.lock:
            return method(self, *given, **named)

    return call
