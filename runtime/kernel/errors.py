"""The error tree. Every error an operator may see is a `QuarterdeckError` with a registered code.

::

    Exception
    ├── QuarterdeckError            code, message, where, hint
    │   ├── CanonicalizationError   (kernel.canonical) a value or stored bytes are not canonical
    │   ├── ContractError           our own code broke a contract; nothing was mutated
    │   ├── ModelError              a record of kernel.model was built from invalid values
    │   ├── Refused                 the world says no: a deliberate, expected refusal
    │   ├── JournalError            the journal could not accept or return an entry
    │   └── StorageError            the store could not be opened, read or written
    └── (blocks define their author-facing tree in runtime.blocks.errors)

    BaseException
    └── Halted                      control flow: a fence, kill switch or halt ends the work in flight
"""

from __future__ import annotations


class QuarterdeckError(Exception):
    """What went wrong, where, and what to do about it.

    ``code`` is stable and registered in `runtime.kernel.codes`; ``message`` says what and what was expected;
    ``where`` is a position such as ``mission.yaml:12:5`` or a path; ``hint`` says what to do next.
    """

    def __init__(self, code: str, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.code}: {self.message}{advice}"


class ContractError(QuarterdeckError):
    """A hard error: the caller broke a contract. Nothing has been mutated or emitted."""


class ModelError(QuarterdeckError, ValueError):
    """A record was built from values its specification refuses."""


class Refused(QuarterdeckError):
    """An expected refusal; the message is written for the operator."""


class JournalError(QuarterdeckError):
    """The journal could not accept, find or prove an entry."""


class StorageError(QuarterdeckError):
    """The store could not be opened, read or written."""


class Halted(BaseException):
    """The enclosing scope was fenced, halted or killed; ordinary handlers must not eat it (ruling R17)."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message or code
