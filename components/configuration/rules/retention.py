"""Rules for retention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from components.configuration.globs import covers
from components.configuration.problems import Problem, path, remove_command
from components.configuration.retention import RuleSettings
from components.configuration.rules.draft import Draft

_RULES = ("registry", "retention", "rules")


def _unreachable_problems(draft: Draft) -> Iterator[Problem]:
    """Report the first rule that can never match. The fix removes all such rules, the last one first."""
    retention = draft.registry.retention if draft.registry else None
    if numbers := unreachable(retention.rules if retention else ()):
        yield Problem(
            path(*_RULES, numbers[0]),
            "a rule that can never match: for each tag, the first rule that matches decides",
            "a rule with a tag that no earlier rule matches; write the exceptions first",
            " && ".join(remove_command(*_RULES, number) for number in reversed(numbers)),
        )


def unreachable(rules: Sequence[RuleSettings]) -> list[int]:
    """Return the places of the rules that can never match, because earlier rules match everything that they match."""
    return [number for number, rule in enumerate(rules) if _is_covered(rule, rules[:number])]


def _is_covered(rule: RuleSettings, earlier: Sequence[RuleSettings]) -> bool:
    """Whether earlier rules, each for all repositories of this rule, together match all of its tags."""
    same = [one for one in earlier if all(covers(one.repositories, pattern) for pattern in rule.repositories)]
    tags = [pattern for one in same for pattern in one.tags]
    return all(covers(tags, pattern) for pattern in rule.tags)


RULES = (_unreachable_problems,)
