"""`cir serve`: the API under /api/v1 and the page, over one `Searcher`.

A request passes the guards (`guard/`, outermost first: log, headers, host, origin, token, rate, body), is read
(`requests`), waits in the one queue (`batching`) and is answered with others by the `engine`; `answers` makes JSON of
it. Only `cir/cli/serve.py` imports this package, which needs the extra `serve`.
"""
