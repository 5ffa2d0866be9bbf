"""Problems of one start, collected so that all of them are named at once and not one per start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from corl_jax.core.errors import UserError


class SeveralProblems(UserError):
    """Several problems at once: a numbered list, each on a line of its own.

    Attributes:
      problems: their texts.
    """

    def __init__(self, problems: Sequence[str]):
        numbered = (f"\n  {number}. {text}" for number, text in enumerate(problems, 1))
        super().__init__(f"{len(problems)} problems, and nothing was written:{''.join(numbered)}")
        self.problems = tuple(problems)


class Problems:
    """Collects errors of a user; other errors are raised at once."""

    def __init__(self) -> None:
        self._errors: list[UserError] = []

    def __bool__(self) -> bool:
        return bool(self._errors)

    @property
    def texts(self) -> list[str]:
        """What was collected, each text once, in the order in which it was found."""
        texts = (text for error in self._errors for text in problems_of(error))
        return list(dict.fromkeys(texts))

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """A block that ends at its first UserError, which is kept."""
        try:
            yield
        except UserError as error:
            self._errors.append(error)

    def raise_if_any(self) -> None:
        """Ends the collection.

        Raises:
          UserError: the one that was collected, or a ``SeveralProblems``.
        """
        if len(self.texts) == 1:
            raise self._errors[0]
        if self._errors:
            raise SeveralProblems(self.texts)


def problems_of(error: UserError) -> Sequence[str]:
    """The texts of an error, of which ``SeveralProblems`` has several, also on other processes."""
    if isinstance(error, SeveralProblems):
        return error.problems
    # ``agreement`` raises an error of this process again, as one that all of them have.
    cause = error.__cause__
    if isinstance(cause, SeveralProblems) and str(cause) == str(error):
        return cause.problems
    return (str(error),)
