"""What the rules of `registry.retention` would free, and what runs."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from operations.retention.plan import Plan
from operations.retention.planner import Question, make_plan


@dataclass(frozen=True)
class Forecast:
    """A plan of today, and the manifests that run or ran, if any host was asked. An index runs if its image runs."""

    plan: Plan
    in_use: Set[str]

    @property
    def asked(self) -> bool:
        """Whether any host was asked."""
        return bool(self.plan.running_on)


def forecast(question: Question) -> Forecast:
    """Return the forecast."""
    return Forecast(make_plan(question), question.graph.with_indexes(question.running))
