"""The benchmarks: that they measure what they say. Small numbers, no claim about any machine's speed."""
