"""Where the cache folder is."""

from __future__ import annotations

import sys
from pathlib import Path

import pooch
import pytest

from kn_utils.store.cache import cache_folder


def test_it_is_what_the_variable_names(monkeypatch):
    monkeypatch.setenv("KN_DATA", "~/facts")
    assert cache_folder() == Path.home() / "facts"


@pytest.mark.parametrize("named", [None, "", "elsewhere"])
def test_it_is_the_platform_s_else(named, monkeypatch, tmp_path):
    monkeypatch.delenv("KN_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if named is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", named and str(tmp_path / named))
    assert cache_folder() == Path(pooch.os_cache("kn_utils"))


def test_it_is_the_platform_s_on_others_too(monkeypatch):
    monkeypatch.delenv("KN_DATA", raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library/Caches/kn_utils"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert cache_folder() == Path("/local/kn_utils/Cache")
