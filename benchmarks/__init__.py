"""What gpubroker costs, measured beside the bare thing in the same run. Each module says how in its docstring."""
