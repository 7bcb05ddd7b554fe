"""Wrapping functions of other packages in place."""

import functools
from types import SimpleNamespace

import pytest

from residual_st.wrapping import wrap


class Base:
    def inherited(self):
        return ["stock"]


class Wrapped(Base):
    def method(self):
        return ["stock"]

    @classmethod
    def of_class(cls):
        return ["stock", cls.__name__]

    @staticmethod
    def static(word):
        return ["stock", word]


def prepend(before, *arguments):
    return ["wrapped", *before(*arguments)]


@pytest.fixture
def wrapped():
    return type("Wrapped", (Base,), dict(vars(Wrapped)))


def test_methods_of_every_kind_are_wrapped(wrapped):
    for name in ("method", "inherited", "of_class", "static"):
        wrap(wrapped, name)(prepend)
    made = wrapped()
    assert made.method() == made.inherited() == ["wrapped", "stock"]
    assert wrapped.of_class() == made.of_class() == ["wrapped", "stock", "Wrapped"]
    assert wrapped.static("a") == made.static("a") == ["wrapped", "stock", "a"]
    assert Base().inherited() == ["stock"]


def foreign(before, follows_wraps: bool):
    def wrapper(*arguments):
        return ["foreign", *before(*arguments)]

    return functools.wraps(before)(wrapper) if follows_wraps else wrapper


@pytest.mark.parametrize("follows_wraps", [True, False])
def test_wrapper_on_top_of_another_packages_takes_effect_once(follows_wraps):
    module = SimpleNamespace(function=foreign(lambda: ["stock"], follows_wraps))
    for _ in range(2):
        wrap(module, "function")(prepend)
    assert module.function() == ["wrapped", "foreign", "stock"]


def test_wrapper_below_another_packages_is_recognised():
    module = SimpleNamespace(function=lambda: ["stock"])
    wrap(module, "function")(prepend)
    module.function = foreign(module.function, True)
    wrap(module, "function")(prepend)
    assert module.function() == ["foreign", "wrapped", "stock"]


def test_replaced_function_is_wrapped_again():
    module = SimpleNamespace(function=lambda: ["stock"])
    wrap(module, "function")(prepend)
    module.function = lambda: ["another"]
    wrap(module, "function")(prepend)
    assert module.function() == ["wrapped", "another"]


def test_two_wrappers_of_one_function():
    def second(before):
        return ["second", *before()]

    module = SimpleNamespace(function=lambda: ["stock"])
    for _ in range(2):
        wrap(module, "function")(prepend)
        wrap(module, "function")(second)
    assert module.function() == ["second", "wrapped", "stock"]


def test_missing_function_is_refused():
    with pytest.raises(AttributeError, match="nothing"):
        wrap(SimpleNamespace(), "nothing")(prepend)
