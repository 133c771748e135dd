"""The works: what contestants are asked to do. A module each:

    TITLE   one line
    ABOUT   what is measured and what a ratio means, for the report
    SHOW    the metrics that the report's tables have, the first of which is plotted
    BASE    whom ratios are to, where that is not plain malloc
    PLANS   by mode (try, quick, head, full): the numbers that run() takes, and `seconds` that it may take
    run     run(bench, plan)

`try` shows that a work runs and measures nothing. A mode that a work has no plan for leaves it out.
"""

from works import (clients, cold, hits, ingest, keep_going, larger, latency, memory, million, misses, mixed, ranges,
                   restart, stampede)

# In the order in which they run: the head figures first.
ALL = {
    "hits": hits,
    "misses": misses,
    "latency": latency,
    "larger": larger,
    "memory": memory,
    "restart": restart,
    "mixed": mixed,
    "cold": cold,
    "stampede": stampede,
    "ranges": ranges,
    "keep_going": keep_going,
    "ingest": ingest,
    "clients": clients,
    "million": million,
}
