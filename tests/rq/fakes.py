"""What matters here of frameworks that are too large to install: their signatures, and when they refuse.

Each is laid on ``sys.path`` of a process of its own, under the framework's name.
"""

from __future__ import annotations

#: CUDA starts at its first use, and runs what was queued for that moment.
TORCH = """
class cuda:
    queued, fractions = [], {}
    @staticmethod
    def _lazy_call(callable, **kwargs): cuda.queued.append(callable)
    @staticmethod
    def device_count(): return 2
    @staticmethod
    def get_device_properties(device): return type("P", (), {"total_memory": (8 + 8 * device) << 30})
    @staticmethod
    def set_per_process_memory_fraction(fraction, device=None): cuda.fractions[device] = fraction
    @staticmethod
    def start(): [call() for call in cuda.queued]
"""

#: Limits are set before the first operation; a card has a limit or growth, not both.
TENSORFLOW = """
class config:
    limits, growing, started = {}, {}, False
    class LogicalDeviceConfiguration:
        def __init__(self, memory_limit=None, experimental_priority=None, experimental_device_ordinal=None):
            self.memory_limit = memory_limit
    @staticmethod
    def list_physical_devices(device_type=None): return ["GPU:0", "GPU:1"]
    @staticmethod
    def get_logical_device_configuration(device): return config.limits.get(device)
    @staticmethod
    def set_logical_device_configuration(device, logical_devices):
        if config.started: raise RuntimeError("Virtual devices cannot be modified after being initialized")
        config.limits[device] = logical_devices
    class experimental:
        @staticmethod
        def set_memory_growth(device, enable):
            if device in config.limits:
                raise ValueError("Cannot set memory growth on device when virtual devices configured")
            config.growing[device] = enable
def limits(): return [[one.memory_limit for one in config.limits.get(card, [])] for card in ("GPU:0", "GPU:1")]
"""

#: A session takes names, pairs of name and options, or two lists.
ONNXRUNTIME = """
class InferenceSession:
    def __init__(self, path_or_bytes, sess_options=None, providers=None, provider_options=None, **kwargs):
        self.asked = providers, provider_options
def get_available_providers(): return ["CUDAExecutionProvider", "CPUExecutionProvider"]
class SessionOptions:
    def __init__(self, named=False): self.named = named
    def has_providers(self): return self.named
"""
