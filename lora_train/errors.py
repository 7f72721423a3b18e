"""Errors meant for users: what is wrong, where, and what to do about it."""

from __future__ import annotations

DONE, BAD_INPUT, STOPPED = 0, 2, 3
"""Exit codes of every command."""


class UserError(Exception):
    """A problem that the user can mend. Anything else that escapes is a bug of ours.

    what: one clause saying what is wrong; where: the file, field or item concerned; remedy: what to do.
    """

    def __init__(self, what: str, *, where: object = None, remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, None if where is None else str(where), remedy
        super().__init__(what, where, remedy)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}. {self.remedy}" if self.remedy else head


class UserErrors(UserError):
    """Several problems found at once, so that nobody has to mend them one start at a time."""

    def __init__(self, errors: list[UserError]) -> None:
        self.errors = errors
        super().__init__("\n".join(str(error) for error in errors))


def raise_all(errors: list[UserError]) -> None:
    """Raise what was collected: nothing, the one error, or all together."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise UserErrors(errors)
