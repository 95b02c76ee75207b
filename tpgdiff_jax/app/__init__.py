"""A local page to try restoring on: `--mode=serve`.

Nothing of browsers is known to `limits.py`, `store.py`, `work.py`, `jobs.py` and `service.py`;
`page.py` and `views.py` are what a browser shows, `server.py` and `guard.py` are what answers it.
"""
