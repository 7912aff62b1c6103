"""The loss terms of a step and their gradients at the student: norms, directions, and weights balanced by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from distill3d.config.schema import BalanceConfig
from distill3d.errors import ConfigError
from distill3d.types import LossTerm

Reduce = Callable[[Tensor], Tensor]  # a mean over the processes


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTerms:
    """The loss terms of one batch, with their graphs.

    Attributes:
        supervised: those that come from labels.
        added: those of the transfer strategy.

    Raises:
        ConfigError: a term of the strategy is called as one from labels, which would be lost.
    """

    supervised: Mapping[str, LossTerm]
    added: Mapping[str, LossTerm]

    def __post_init__(self) -> None:
        if twice := [name for name in self.added if name in self.supervised]:
            raise ConfigError(f"strategy: its loss term {twice[0]!r} is one of the labels' too; accepted: another name")

    @property
    def all(self) -> dict[str, LossTerm]:
        """Both groups, supervised terms first."""
        return {**self.supervised, **self.added}


@dataclass(frozen=True, slots=True, kw_only=True)
class TermGradient:
    """One term's gradient at the student.

    Attributes:
        value: of the raw term.
        weight: it enters the sum with.
        norm: Euclidean, of the raw term's gradient over all the student's parameters.
        cosine: of its angle to the gradient of the weighted supervised terms, in [-1, 1]; 0 where either is zero.
        share: of its weighted norm in the sum of all weighted norms, in [0, 1].
        connected: False where no parameter of the student is in the term's graph.
    """

    value: float
    weight: float
    norm: float
    cosine: float
    share: float
    connected: bool


def term_gradients(step_terms: StepTerms, parameters: Iterable[nn.Parameter]) -> dict[str, TermGradient]:
    """Measure the gradient of every term, keeping the graph; costs a backward per term.

    Args:
        step_terms: of one batch.
        parameters: of the student.

    Example:
        >>> p = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> terms = StepTerms(supervised={"a": LossTerm(p.square().sum() / 2, 2.0)}, added={})
        >>> gradient = term_gradients(terms, [p])["a"]
        >>> round(gradient.norm, 4), round(gradient.cosine, 4), gradient.share
        (5.0, 1.0, 1.0)
    """
    terms = step_terms.all
    wanted = [p for p in parameters if p.requires_grad]
    flat = {name: _flat_gradient(term.value, wanted) for name, term in terms.items()}
    zero = torch.zeros((), dtype=torch.float64)
    norms = {name: zero if gradient is None else gradient.double().norm().cpu() for name, gradient in flat.items()}
    total = sum(terms[name].weight * float(norm) for name, norm in norms.items())
    target = _sum([g * term.weight for name, term in step_terms.supervised.items() if (g := flat[name]) is not None])
    return {
        name: TermGradient(
            value=float(term.value.detach()),
            weight=term.weight,
            norm=float(norms[name]),
            cosine=_cosine(flat[name], target),
            share=term.weight * float(norms[name]) / total if total else 0.0,
            connected=flat[name] is not None,
        )
        for name, term in terms.items()
    }


def _flat_gradient(value: Tensor, parameters: list[nn.Parameter]) -> Tensor | None:
    """Return all gradients in a row, None where the value depends on no parameter."""
    if not value.requires_grad:
        return None
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        return None
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1).float() for g, p in pairs])


def _sum(gradients: list[Tensor]) -> Tensor | None:
    return torch.stack(gradients).sum(0) if gradients else None


def _cosine(a: Tensor | None, b: Tensor | None) -> float:
    if a is None or b is None:
        return 0.0
    lengths = float(a.double().norm() * b.double().norm())
    return float(a.double() @ b.double()) / lengths if lengths else 0.0


@final
class GradientBalance:
    """Scales the weights of a strategy's terms, so that each pulls on the student as the supervised terms do.

    With ``mode=gradient`` a term's weight is multiplied by the ratio of the gradients' norms, supervised to its own,
    measured every few steps and smoothed: weight 1 then means "as strong as the labels", whatever the term's unit.
    A term is measured first when its weight is first above 0. ``mode=fixed`` changes nothing and costs nothing.

    Source: Chen et al. 2018, GradNorm, arXiv 1711.02257, for the idea of balancing by norms at shared weights; setting
    the ratio directly instead of learning it is ours.

    Args:
        config: mode, interval, smoothing.

    Attributes:
        scales: factor on the weight of each term so far; part of a checkpoint, so that a resumed run goes on with it.
    """

    def __init__(self, config: BalanceConfig) -> None:
        self.config = config
        self.scales: dict[str, float] = {}
        self._measured_at = -1

    def __call__(
        self,
        terms: StepTerms,
        *,
        parameters: Iterable[nn.Parameter],
        step: int,
        reduce: Reduce,
    ) -> StepTerms:
        """Return the terms with their balanced weights; supervised ones stay as they are.

        Args:
            terms: of one batch.
            parameters: of the student.
            step: of the training.
            reduce: mean of a tensor over all processes, so that all use the same weights.
        """
        on = {name: term.value for name, term in terms.added.items() if term.weight}
        if self.config.mode == "fixed" or not on:
            return terms
        due = step % self.config.every == 0 and step != self._measured_at  # of a step's batches, at the first
        if due or not self.scales.keys() >= on.keys():
            self._measured_at = step
            labels = torch.stack([term.weight * term.value for term in terms.supervised.values()])
            self._measure(labels.sum(), on, list(parameters), reduce)
        scaled = {name: LossTerm(t.value, t.weight * self.scales.get(name, 1.0)) for name, t in terms.added.items()}
        return StepTerms(supervised=terms.supervised, added=scaled)

    def _measure(
        self, labels: Tensor, added: Mapping[str, Tensor], parameters: list[nn.Parameter], reduce: Reduce
    ) -> None:
        wanted = [p for p in parameters if p.requires_grad]
        norms = reduce(torch.stack([_norm(value, wanted) for value in (labels, *added.values())])).tolist()
        for name, norm in zip(added, norms[1:], strict=True):
            if not norms[0] or not norm:  # this batch says nothing of the ratio
                continue
            ratio = min(norms[0] / norm, self.config.limit)
            old = self.scales.get(name, ratio)
            self.scales[name] = self.config.smoothing * old + (1 - self.config.smoothing) * ratio


def _norm(value: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    gradient = _flat_gradient(value, parameters)
    return value.detach().float() * 0 if gradient is None else gradient.norm()
