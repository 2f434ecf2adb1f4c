"""ddbench: dataset distillation for remote-sensing scene classification, benchmarked.

    import ddbench

    run = ddbench.run("dpd", dataset="ucm", ipc=10, preset="tiny", students=["resnet18"])

Importing it imports no torch; docs/python.md describes the functions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ddbench.errors import Error as Error
from ddbench.errors import FailedRunError as FailedRunError
from ddbench.errors import UserError as UserError
from ddbench.version import __version__ as __version__

if TYPE_CHECKING:
    from ddbench.api.audits import audit as audit
    from ddbench.api.data import list_methods as list_methods
    from ddbench.api.data import load_dataset as load_dataset
    from ddbench.api.data import load_distilled as load_distilled
    from ddbench.api.distilled import DistilledImage as DistilledImage
    from ddbench.api.distilled import DistilledImages as DistilledImages
    from ddbench.api.measures import Measure as Measure
    from ddbench.api.measures import budget as budget
    from ddbench.api.measures import canaries as canaries
    from ddbench.api.measures import continual as continual
    from ddbench.api.measures import redundancy as redundancy
    from ddbench.api.results import Results as Results
    from ddbench.api.results import load_results as load_results
    from ddbench.api.runs import Run as Run
    from ddbench.api.runs import evaluate as evaluate
    from ddbench.api.runs import run as run

_MODULES = {  # name -> module of ddbench.api that is imported when the name is used
    "audit": "audits",
    "list_methods": "data",
    "load_dataset": "data",
    "load_distilled": "data",
    "DistilledImage": "distilled",
    "DistilledImages": "distilled",
    "Measure": "measures",
    "budget": "measures",
    "canaries": "measures",
    "continual": "measures",
    "redundancy": "measures",
    "Results": "results",
    "load_results": "results",
    "Run": "runs",
    "evaluate": "runs",
    "run": "runs",
}
__all__ = ["Error", "FailedRunError", "UserError", "__version__", *_MODULES]

if not TYPE_CHECKING:  # for mypy any attribute would exist

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module 'ddbench' has no attribute {name!r}")
        return getattr(import_module(f"ddbench.api.{_MODULES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_MODULES})
