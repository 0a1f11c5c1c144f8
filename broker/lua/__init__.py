"""The ledger's scripts: one file a command, shared steps in ``include/``.

No Python lives here; ``broker.ledger.scripts`` puts the files together and runs them.
"""
