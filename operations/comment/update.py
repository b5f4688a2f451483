"""Decide what happens to the comments of a stack, and do it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from operations.comment.api import Comment, Comments
from operations.comment.forges import PullRequest
from operations.comment.mark import parse
from operations.comment.refusals import Passing

#: Waits before the second and the third try.
RETRY_SECONDS = (1.0, 4.0)


@dataclass(frozen=True)
class Plan:
    """What happens to the comments of a stack.

    Args:
        create: whether a new comment is written.
        edit: the comment whose text is replaced.
        delete: the comments that are deleted.
        foreign: comments of other accounts with the mark of the stack. They stay as they are.
    """

    create: bool
    edit: Comment | None
    delete: tuple[Comment, ...]
    foreign: tuple[Comment, ...]


def plan(comments: Iterable[Comment], account: str, stack: str, text: str | None) -> Plan:
    """Keep the oldest own comment of a stack, with a new text. Without a text, keep none.

    Only comments of the token's own account count. Anyone can copy the mark: an edit of such a comment would leave its
    author in control of what reviewers read.
    """
    marked = sorted(
        (comment for comment in comments if (found := parse(comment.body)) and found.stack == stack),
        key=lambda comment: comment.id,
    )
    own = tuple(comment for comment in marked if comment.author.casefold() == account.casefold())
    foreign = tuple(comment for comment in marked if comment not in own)
    if text is None:
        return Plan(create=False, edit=None, delete=own, foreign=foreign)
    # A forge can remove white space at the end of a text.
    changed = own and own[0].body.rstrip() != text.rstrip()
    return Plan(create=not own, edit=own[0] if changed else None, delete=own[1:], foreign=foreign)


def publish(request: PullRequest, token: str, stack: str, text: str | None) -> Plan:
    """Make the comments of a stack as planned, and return the plan.

    Each try reads the comments first. So a try that ended halfway, or a pipeline that ran at the same time, leaves no
    second comment for long.

    Raises:
        Failure: if the forge refuses a call, or does not answer at the last try.
    """
    with Comments(request, token) as comments:
        for wait in (*RETRY_SECONDS, None):
            try:
                planned = plan(comments.all(), comments.account(), stack, text)
                _carry_out(planned, comments, text)
                return planned
            except Passing:
                if wait is None:
                    raise
                time.sleep(wait)
    raise AssertionError("the last try returns or fails")


def _carry_out(planned: Plan, comments: Comments, text: str | None) -> None:
    if text is not None and planned.create:
        comments.create(text)
    if text is not None and planned.edit:
        comments.edit(planned.edit, text)
    for comment in planned.delete:
        comments.delete(comment)
