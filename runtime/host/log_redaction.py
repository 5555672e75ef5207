"""What the runtime tells Python's logging goes without secrets, whoever listens there."""

from __future__ import annotations

import logging
from typing import Final

from runtime.kernel.redaction import Redactor

_OURS: Final = "runtime"
_PLAIN: Final = logging.Formatter()


class LogRedaction(logging.Filter):
    """A filter on every logger of the runtime: one on the topmost alone would not see what those below it log."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor
        self._loggers: list[logging.Logger] = []

    def attach(self) -> None:
        """Loggers are made when their modules are imported, so those that can log for a host are there."""
        names = [name for name in logging.root.manager.loggerDict if name == _OURS or name.startswith(f"{_OURS}.")]
        self._loggers = [logging.getLogger(name) for name in names]
        for logger in self._loggers:
            logger.addFilter(self)

    def detach(self) -> None:
        for logger in self._loggers:
            logger.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        if not self._redactor.known:
            return True
        record.msg, record.args = self._redactor.text(record.getMessage()), None
        if record.exc_info and record.exc_text is None:
            # Formatters print this text instead of formatting the exception themselves.
            record.exc_text = self._redactor.text(_PLAIN.formatException(record.exc_info))
        return True
