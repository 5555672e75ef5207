"""The audit gate: thirteen gates that judge a bundle (operations spec §13). Standard library only; bundles carry it."""

from runtime.audit.gate.full import Settings as Settings
from runtime.audit.gate.full import full_report as full_report
from runtime.audit.gate.report import Report as Report
from runtime.audit.gate.static import static_report as static_report
