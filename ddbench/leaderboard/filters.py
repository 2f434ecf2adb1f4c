"""Choose the results of a table. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ddbench.errors import unknown
from ddbench.leaderboard.reported import Reported
from ddbench.store.records import StoredResult


@dataclass(frozen=True)
class Filters:
    """The results of a table; None matches anything, and so do no students."""

    dataset: str | None = None
    ipc: int | None = None
    protocol: str | None = None
    students: tuple[str, ...] = ()

    def matches(self, entry: StoredResult) -> bool:
        """Return True for a matching result. Results of all training images match every IPC."""
        spec, result = entry.spec, entry.result
        same = self.protocol in (None, result.protocol, result.title)
        same = same and (not self.students or result.student in self.students)
        return same and self.dataset in (None, spec.dataset) and self.ipc in (None, spec.ipc or self.ipc)

    def matches_reported(self, number: Reported) -> bool:
        """Return True for a paper's number that matches, or may match."""
        protocol = number.protocol or self.protocol or ""
        same = self.protocol in (None, protocol, protocol.partition("@")[0])
        same = same and (not self.students or number.student in (None, *self.students))
        return same and self.dataset in (None, number.dataset) and self.ipc in (None, number.ipc)

    def check(self, entries: Sequence[StoredResult], names: Mapping[str, Iterable[str]]) -> None:
        """Raise UserError for a filter that is neither in the results nor a registered name.

        names: the registered "datasets", "protocols" and "students".
        """
        in_results = {
            "dataset": {entry.spec.dataset for entry in entries},
            "protocol": {entry.result.title for entry in entries},
            "student": {entry.result.student for entry in entries},
        }
        students = [("student", name) for name in self.students]
        chosen = [("dataset", self.dataset), ("protocol", self.protocol), *students]
        for kind, name in chosen:
            known = {*names[f"{kind}s"], *in_results[kind]}
            families = {title.partition("@")[0] for title in known} if kind == "protocol" else set()
            if name is not None and name not in known | families:
                raise unknown(kind, name, known)
