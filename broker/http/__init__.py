"""The HTTP face of a pool: the application, who may do what, its limits, and the page. It reads and serves the ledger
and decides nothing: whatever is granted or refused, the ledger's scripts did it. Needs the extra ``web``.
"""
