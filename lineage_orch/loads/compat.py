"""The one private part of Prefect that the library reads, and what happens where it is gone.

Tried on Prefect 3.8.8. ``tests/loads/test_compat.py`` fails when the part is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache

from prefect.context import FlowRunContext

_LOGGER = logging.getLogger("lineage_orch")


def flow_contexts() -> Iterator[FlowRunContext]:
    """Yield the contexts of the flow runs around the caller, innermost first.

    Prefect gives the innermost (``FlowRunContext.get()``); the one around it is what its context variable held before,
    which the context keeps in ``_token``. Where that part is gone only the innermost is yielded, with a warning: a
    subflow's load then never waits for its build, and `mark_updated` does not see a producer around a subflow.
    """
    context = FlowRunContext.get()
    while isinstance(context, FlowRunContext):
        yield context
        try:
            token = context._token
            # A context that was entered by no `with` holds no token.
            context = None if token is None else token.old_value
        except AttributeError as error:
            _warn(str(error))
            return


@cache
def _warn(why: str) -> None:
    from prefect import __version__

    _LOGGER.warning(
        "Prefect %s does not tell which flows are around a subflow (%s): loads in subflows do not wait for their "
        "build, and mark_updated in a subflow that is no producer does not find the producer around it. Report this "
        "as a bug of lineage_orch, with this line.",
        __version__,
        why,
    )
