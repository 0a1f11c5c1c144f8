"""RQ's own records, moved in one step: a job is in exactly one place at any moment, whoever dies when."""
