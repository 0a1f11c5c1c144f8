"""A photo pipeline as a plain library: find, decode, score, enhance in tiles, export, report.
Nothing here knows Redis, a queue or a lease; only `demo` does, and it drives the library from outside."""
