"""What the command line prints: tables for people, JSON for machines. A file for each verb."""

from arrowquant._report.failures import finished, missing
from arrowquant._report.inspect import inspect, not_quantized
from arrowquant._report.plan import plan, sums
from arrowquant._report.summary import summary
from arrowquant._report.verification import verification
from arrowquant._report.written import exported, left_out

__all__ = [
    "exported",
    "finished",
    "inspect",
    "left_out",
    "missing",
    "not_quantized",
    "plan",
    "summary",
    "sums",
    "verification",
]
