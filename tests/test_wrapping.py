"""Functions of others, wrapped in place."""

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


def ours(before, *arguments):
    return ["ours", *before(*arguments)]


@pytest.fixture
def wrapped():
    return type("Wrapped", (Base,), dict(vars(Wrapped)))


def test_methods_of_every_kind_stay_what_they_are(wrapped):
    for name in ("method", "inherited", "of_class", "static"):
        wrap(wrapped, name)(ours)
    made = wrapped()
    assert made.method() == made.inherited() == ["ours", "stock"]
    assert wrapped.of_class() == made.of_class() == ["ours", "stock", "Wrapped"]
    assert wrapped.static("a") == made.static("a") == ["ours", "stock", "a"]
    assert Base().inherited() == ["stock"]


def foreign(before, follows_wraps: bool):
    def wrapper(*arguments):
        return ["foreign", *before(*arguments)]

    return functools.wraps(before)(wrapper) if follows_wraps else wrapper


@pytest.mark.parametrize("follows_wraps", [True, False])
def test_beside_another_packages_wrapper_both_take_effect_once(follows_wraps):
    module = SimpleNamespace(function=foreign(lambda: ["stock"], follows_wraps))
    for _ in range(2):
        wrap(module, "function")(ours)
    assert module.function() == ["ours", "foreign", "stock"]


def test_is_found_below_a_wrapper_that_was_put_over_it():
    module = SimpleNamespace(function=lambda: ["stock"])
    wrap(module, "function")(ours)
    module.function = foreign(module.function, True)
    wrap(module, "function")(ours)
    assert module.function() == ["foreign", "ours", "stock"]


def test_what_another_package_has_replaced_is_wrapped_again():
    module = SimpleNamespace(function=lambda: ["stock"])
    wrap(module, "function")(ours)
    module.function = lambda: ["another"]
    wrap(module, "function")(ours)
    assert module.function() == ["ours", "another"]


def test_two_of_ours_on_one_function():
    def second(before):
        return ["second", *before()]

    module = SimpleNamespace(function=lambda: ["stock"])
    for _ in range(2):
        wrap(module, "function")(ours)
        wrap(module, "function")(second)
    assert module.function() == ["second", "ours", "stock"]


def test_nothing_to_wrap():
    with pytest.raises(AttributeError, match="nothing"):
        wrap(SimpleNamespace(), "nothing")(ours)
