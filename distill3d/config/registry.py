"""Names for components: the one way a YAML file reaches a class. It knows no concrete component."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from distill3d.errors import ConfigError, did_you_mean

T = TypeVar("T")
C = TypeVar("C", bound=type)


@dataclass(frozen=True, slots=True)
class Component:
    """A chosen component: its registered name and its validated, frozen settings."""

    name: str
    config: Any


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """A registered class, its config dataclass, and where it comes from."""

    cls: type[T]
    config: type
    module: str


class Registry(Generic[T]):
    """Maps a name to a class and its frozen config dataclass.

    Args:
        kind: the YAML key and the word used in errors, such as ``"student"``.

    Example:
        >>> from dataclasses import dataclass
        >>> SHAPES = Registry[object]("shape")
        >>> @dataclass(frozen=True, kw_only=True, slots=True)
        ... class BallConfig:
        ...     radius: float = 1.0
        >>> @SHAPES.register("ball", config=BallConfig)
        ... class Ball:
        ...     def __init__(self, config): self.radius = config.radius
        >>> SHAPES.build(Component("ball", BallConfig(radius=2.0))).radius
        2.0
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def register(self, name: str, *, config: type) -> Callable[[C], C]:
        """Return a class decorator that files the class under ``name``.

        Raises:
            ConfigError: the name is taken by another class.
            TypeError: ``config`` is not a frozen dataclass.
        """
        if not dataclasses.is_dataclass(config) or not config.__dataclass_params__.frozen:  # pyright: ignore[reportAttributeAccessIssue]
            raise TypeError(f"config of {self.kind} {name!r} must be a frozen dataclass, got {config!r}")

        def decorate(cls: C) -> C:
            if (known := self._entries.get(name)) is not None:
                raise ConfigError(f"{self.kind} {name!r} is registered twice: by {known.module} and {cls.__module__}")
            self._entries[name] = Entry(cls, config, cls.__module__)
            return cls

        return decorate

    def names(self) -> tuple[str, ...]:
        """All registered names, sorted."""
        return tuple(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> Entry[T]:
        """Look a name up.

        Raises:
            ConfigError: unknown name; lists the known ones and the nearest.
        """
        if name not in self._entries:
            hint = did_you_mean(name, self._entries)
            raise ConfigError(f"unknown {self.kind} {name!r}{hint and f' ({hint})'}; known: {', '.join(self.names())}")
        return self._entries[name]

    def build(self, component: Component, **context: object) -> T:
        """Construct the component's class as ``cls(config, **context)``."""
        return self[component.name].cls(component.config, **context)  # pyright: ignore[reportCallIssue]


DATA = Registry[Any]("data")
TEACHERS = Registry[Any]("teacher")
STUDENTS = Registry[Any]("student")
STRATEGIES = Registry[Any]("strategy")
NEURONS = Registry[Any]("neuron")
LOSSES = Registry[Any]("loss")

REGISTRIES: dict[str, Registry[Any]] = {r.kind: r for r in (DATA, TEACHERS, STUDENTS, STRATEGIES, NEURONS, LOSSES)}


def component(kind: str, default: str | None = None, *, listed: bool = False) -> Any:  # noqa: ANN401 - a dataclass field takes any annotation
    """Declare a config field that holds one component of ``kind``; ``default`` names it when the YAML does not.

    Args:
        kind: of the registry.
        default: a registered name; None if the YAML must give one.
        listed: accept a list too, which becomes a tuple.
    """
    return dataclasses.field(metadata={"registry": kind, "many": False, "default": default, "listed": listed})


def components(kind: str, default: str | None = None) -> Any:  # noqa: ANN401 - as above
    """Declare a config field that holds a mapping of freely named components of ``kind``."""
    return dataclasses.field(metadata={"registry": kind, "many": True, "default": default, "listed": False})
