"""The benchmarks' own parts, and the guard: what each operation makes the server do, as counts."""
