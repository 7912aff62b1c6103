"""The registry: one name, one class."""

from dataclasses import dataclass

import pytest

from distill3d.config.registry import Component, Registry
from distill3d.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    size: int = 1


class Thing:
    def __init__(self, config, *, extra=0):
        self.total = config.size + extra


@pytest.fixture
def registry():
    registry = Registry("thing")
    registry.register("small", config=Settings)(Thing)
    return registry


def test_a_name_taken_twice_is_an_error_that_names_both_modules(registry):
    with pytest.raises(ConfigError, match=r"registered twice: by .*test_registry and .*test_registry"):
        registry.register("small", config=Settings)(Thing)


def test_an_unknown_name_lists_the_known_and_the_nearest(registry):
    with pytest.raises(ConfigError, match=r"unknown thing 'smal' \(did you mean 'small'\?\); known: small"):
        registry["smal"]


def test_settings_must_be_frozen(registry):
    @dataclass
    class Loose:
        size: int = 1

    with pytest.raises(TypeError, match="frozen"):
        registry.register("loose", config=Loose)


def test_building_passes_settings_and_context(registry):
    assert registry.build(Component("small", Settings(size=2)), extra=3).total == 5
