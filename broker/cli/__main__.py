"""`python -m broker.cli`: the `gpubroker` command by the interpreter at hand."""

from broker.cli import main

main(prog_name="gpubroker")
