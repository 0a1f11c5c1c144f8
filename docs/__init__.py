"""The documentation, and in ``make`` what writes its reference pages from the code. Nothing here is installed."""
