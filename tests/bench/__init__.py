"""The benchmarks: that they measure what they say, by small numbers and no claim about any machine's speed.

Beside them the guard, which counts what each operation makes the server do.
"""
