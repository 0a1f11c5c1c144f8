"""The ledger from Python's side: key names, scripts, the server's version, the check of its sums.

What a lease means to its holder is one floor up, in ``broker.client`` and ``broker.lease``.
"""
