"""A double for what follows models: no follower runs, and the double says which would have."""

from __future__ import annotations

from collections import Counter

from lineage_orch.followers.starts import Start
from lineage_orch.text import listed
from lineage_orch.updates import Window


class Followed:
    """The followers that builds would have run: each counts as run, and Completed.

    Attributes:
        starts: what would have run, in that order: ``.follower``, ``.sources``, ``.window``.
    """

    def __init__(self) -> None:
        self.starts: list[Start] = []

    def __call__(self, start: Start) -> None:
        """Take the place of a run."""
        self.starts.append(start)

    @property
    def names(self) -> list[str]:
        """The names of the flows and exposures that would have run, each as often as it would have."""
        return [each.follower.name for each in self.starts]

    def sources_of(self, name: str) -> set[str]:
        """Return the sources whose loads caused the runs of a follower."""
        return {source for each in self.starts if each.follower.name == name for source in each.sources}

    def windows_of(self, name: str) -> list[Window | None]:
        """Return the windows that the runs of a follower would have been told, in that order."""
        return [each.window for each in self.starts if each.follower.name == name]

    def clear(self) -> None:
        """Forget what would have run."""
        self.starts.clear()

    def assert_ran(self, *names: str) -> None:
        """Fail unless exactly these would have run, each as often as it is named, in whatever order.

        Raises:
            AssertionError: with the difference.
        """
        __tracebackhide__ = True
        ran, expected = Counter(self.names), Counter(names)
        if ran != expected:
            lines = ["These followers would not have run so."]
            lines += [f"  ran, not expected:  {each}" for each in sorted((ran - expected).elements())]
            lines += [f"  expected, not ran:  {each}" for each in sorted((expected - ran).elements())]
            if not ran:
                lines.append("  None ran. Was what it follows built, and is its module imported in this test?")
            elif due := sorted({source for each in self.starts for source in each.sources}):
                lines.append(f"  for the load of {listed(due, most=8)}")
            raise AssertionError("\n".join(lines))
