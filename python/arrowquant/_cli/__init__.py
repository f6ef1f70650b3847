"""The command line: a file for each verb. Each imports what it needs when it needs it."""

from arrowquant._cli import dequantize, export, importance, inspect, plan, quantize, verify
from arrowquant._cli.common import app

__all__ = ["app", "dequantize", "export", "importance", "inspect", "plan", "quantize", "verify"]
