"""What the dashboard shows: rows of panels, and the queries in them.

Each query takes the greater of what several servers say of one pool (``max``), never their sum.
"""

from __future__ import annotations

from dataclasses import dataclass

_COLOURS = {
    "OPTIMAL": "green", "NORMAL": "blue", "THROTTLED": "orange", "CRITICAL": "red", "UNAVAILABLE": "dark-red",
}  # fmt: skip
_CARD = "pool, gpu, UUID, modelName, Hostname"
HERE = 'pool="$pool"'
_RATE = "$__rate_interval"
_ON = 'pool="$pool", Hostname=~"$Hostname"'


@dataclass(frozen=True)
class Panel:
    """One panel: queries with their legends, its unit, and how wide and high it is in Grafana's grid."""

    kind: str
    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    width: int = 12
    height: int = 8
    words: str = ""
    stacked: bool = False
    instant: bool = False
    most: float | None = None
    thresholds: tuple[tuple[str, float | None], ...] = (("green", None),)
    mappings: tuple[tuple[str, str, str], ...] = ()


def card(name: str, more: str = "") -> str:
    """A gauge of every card of the hosts that are chosen."""
    return f"max by ({_CARD}) (gpubroker_gpu_{name}{{{_ON}{more}}})"


def pool(name: str, by: str = "pool") -> str:
    """A gauge of the pool."""
    return f"max by ({by}) (gpubroker_{name}{{{HERE}}})"


def rate(name: str, by: str = "pool") -> str:
    """What a counter counts a second; of several servers the one that counted most."""
    return f"max by ({by}) (rate(gpubroker_{name}{{{HERE}}}[{_RATE}]))"


def quantile(share: float, name: str) -> str:
    """A quantile of a histogram, over all tenants."""
    buckets = f"max by (tenant, le) (rate(gpubroker_{name}_bucket{{{HERE}}}[{_RATE}]))"
    return f"histogram_quantile({share}, sum by (le) ({buckets}))"


def dcgm(name: str, more: str = "") -> str:
    """What DCGM-exporter says of the cards of this pool, with the pool's labels."""
    theirs = f"max by (UUID) ({name}{more})"
    ours = f"max by (UUID, gpu, Hostname) (gpubroker_gpu_memory_total_bytes{{{_ON}}} > bool 0)"
    return f"{theirs} * on (UUID) group_left (gpu, Hostname) {ours}"


def state(name: str, number: int) -> str:
    """A state as a number, where it holds."""
    own = f'{_ON}, gpubroker_gpu_state="{name}"'
    return f"max by (gpu, Hostname) (gpubroker_gpu_state{{{own}}}) * {number} > 0"


_YES = (("0", "no", "green"), ("1", "yes", "red"))

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Pool",
        (
            Panel(
                "stat",
                "Cards that lend",
                ((f"sum({card('lends')})", "lend"), (f"count({card('lends')})", "of")),
                width=4,
                height=4,
            ),
            Panel("stat", "Leased", ((f"sum({card('memory_leased_bytes')})", ""),), "bytes", 4, 4),
            Panel(
                "stat",
                "Free to borrow",
                ((f"sum({card('memory_free_bytes')} * {card('lends')})", ""),),
                "bytes",
                4,
                4,
                "Of cards that lend. A request must fit into one card, so less than this may be refused.",
            ),
            Panel(
                "stat",
                "Leases",
                ((f"sum({pool('leases', 'pool, state, tenant')}) or vector(0)", ""),),
                width=3,
                height=4,
            ),
            Panel(
                "stat",
                "Requests that wait",
                ((f"sum({pool('waiters', 'pool, tenant, priority')}) or vector(0)", ""),),
                width=3,
                height=4,
                thresholds=(("green", None), ("orange", 1)),
            ),
            Panel(
                "stat",
                "Settling",
                ((pool("ledger_settling"), ""),),
                width=3,
                height=4,
                mappings=_YES,
                words="After lost data nothing is lent until holders have registered.",
            ),
            Panel(
                "stat",
                "Sums that are wrong",
                ((pool("fsck_differences"), ""),),
                width=3,
                height=4,
                thresholds=(("green", None), ("red", 1)),
                words="What does not follow from the leases: gpubroker doctor names it.",
            ),
            Panel(
                "timeseries",
                "Memory of all cards",
                (
                    (f"sum({card('memory_leased_bytes')})", "leased"),
                    (f"sum({card('memory_unmanaged_bytes')})", "unmanaged"),
                    (f"sum({card('memory_free_bytes')})", "free"),
                    (f"sum({card('memory_total_bytes')})", "total"),
                ),
                "bytes",
            ),
            Panel(
                "timeseries",
                "What happens in the journal",
                ((rate("journal_events_total", "kind") + " > 0", "{{kind}}"),),
                "ops",
            ),
        ),
    ),
    (
        "Hosts",
        (
            Panel(
                "timeseries",
                "Since an agent's last sample",
                ((f"max by (Hostname) (gpubroker_host_sample_age_seconds{{{_ON}}})", "{{Hostname}}"),),
                "s",
                words="An agent that is silent for three intervals closes its cards.",
            ),
            Panel(
                "timeseries",
                "Memory of hosts in use",
                (
                    (f"max by (Hostname) (gpubroker_host_memory_used_bytes{{{_ON}}})", "{{Hostname}} used"),
                    (f"max by (Hostname) (gpubroker_host_leased_memory_bytes{{{_ON}}})", "{{Hostname}} borrowed"),
                ),
                "bytes",
            ),
            Panel(
                "timeseries",
                "Processors of hosts",
                ((f"max by (Hostname) (gpubroker_host_cpu_utilization_ratio{{{_ON}}})", "{{Hostname}}"),),
                "percentunit",
                most=1,
            ),
            Panel(
                "timeseries",
                "Room where jobs write",
                ((f"max by (Hostname) (gpubroker_host_disk_free_bytes{{{_ON}}})", "{{Hostname}}"),),
                "bytes",
            ),
        ),
    ),
    (
        "Cards",
        (
            Panel(
                "state-timeline",
                "State",
                tuple((state(name, number), "{{Hostname}} {{gpu}}") for number, name in enumerate(_COLOURS, start=1)),
                width=24,
                mappings=tuple(
                    (str(number), name, colour) for number, (name, colour) in enumerate(_COLOURS.items(), start=1)
                ),
            ),
            Panel("timeseries", "Temperature", ((card("temperature_celsius"), "{{Hostname}} {{gpu}}"),), "celsius"),
            Panel(
                "timeseries",
                "Leased share of a card",
                ((f"{card('memory_leased_bytes')} / {card('memory_total_bytes')}", "{{Hostname}} {{gpu}}"),),
                "percentunit",
                most=1,
            ),
            Panel("timeseries", "Power", ((card("power_watts"), "{{Hostname}} {{gpu}}"),), "watt"),
            Panel(
                "timeseries", "Working", ((card("utilization_ratio"), "{{Hostname}} {{gpu}}"),), "percentunit", most=1
            ),
            Panel(
                "timeseries",
                "In use by processes without a lease",
                ((card("memory_unmanaged_bytes") + " > 0", "{{Hostname}} {{gpu}}"),),
                "bytes",
            ),
            Panel(
                "timeseries",
                "Throttled, times a minute",
                (
                    (
                        f"60 * max by (UUID, Hostname) (rate(gpubroker_gpu_throttles_total{{{_ON}}}[{_RATE}])) > 0",
                        "{{Hostname}} {{UUID}}",
                    ),
                ),
            ),
            Panel(
                "table",
                "Cards that do not lend",
                ((f"{card('lends')} == 0", ""),),
                instant=True,
                width=24,
                height=6,
                words="gpubroker status says why.",
            ),
        ),
    ),
    (
        "Leases and waits",
        (
            Panel(
                "timeseries",
                "Leases by state",
                ((f"sum by (state) ({pool('leases', 'state, tenant')})", "{{state}}"),),
                stacked=True,
            ),
            Panel(
                "timeseries",
                "Memory by tenant",
                ((f"sum by (tenant) ({pool('leases_memory_bytes', 'state, tenant')})", "{{tenant}}"),),
                "bytes",
                stacked=True,
            ),
            Panel(
                "timeseries",
                "Requests that wait",
                ((pool("waiters", "tenant, priority"), "{{tenant}} priority {{priority}}"),),
                stacked=True,
            ),
            Panel(
                "timeseries",
                "For how long the first of them waits",
                ((pool("waiters_longest_seconds", "tenant, priority"), "{{tenant}} priority {{priority}}"),),
                "s",
            ),
            Panel(
                "timeseries",
                "From request to grant",
                ((quantile(0.5, "lease_wait_seconds"), "half of them"), (quantile(0.95, "lease_wait_seconds"), "95 %")),
                "s",
            ),
            Panel(
                "timeseries",
                "From grant to end",
                ((quantile(0.5, "lease_hold_seconds"), "half of them"), (quantile(0.95, "lease_hold_seconds"), "95 %")),
                "s",
            ),
            Panel(
                "timeseries",
                "Granted, returned, lost",
                (
                    (f"sum({rate('lease_grants_total', 'tenant')})", "granted"),
                    (f"sum({rate('lease_releases_total', 'tenant')})", "returned"),
                    (rate("lease_losses_total", "why") + " > 0", "lost: {{why}}"),
                ),
                "ops",
            ),
            Panel(
                "timeseries",
                "Leases to look at",
                (
                    (pool("leases_overusing"), "take too much"),
                    (pool("leases_idle"), "idle"),
                    (pool("leases_revoked"), "asked to end"),
                ),
            ),
            Panel(
                "timeseries",
                "Memory by function, on average",
                (
                    (
                        rate("function_lease_memory_byte_seconds_total", "tenant, function"),
                        "{{tenant}} {{function}}",
                    ),
                ),
                "bytes",
                words="Of leases that ended.",
            ),
            Panel(
                "table",
                "Jobs that hold longest",
                (
                    (
                        f"sort_desc({pool('job_leased_memory_bytes', 'job_id, tenant, function, Hostname')})",
                        "",
                    ),
                ),
                "bytes",
                instant=True,
            ),
        ),
    ),
    (
        "RQ",
        (
            Panel(
                "timeseries",
                "Jobs that borrow, by queue",
                ((pool("queue_jobs", "queue, status"), "{{queue}} {{status}}"),),
                words="Scheduled ones are parked until there is room.",
            ),
            Panel(
                "timeseries",
                "Of RQ's scheduled jobs, parked for memory",
                (
                    (
                        f"{pool('queue_jobs', 'queue, status')} / on (queue, status) max by (queue, status) (rq_jobs)",
                        "{{queue}} {{status}}",
                    ),
                ),
                "percentunit",
                words="Joined with rq-exporter.",
                most=1,
            ),
        ),
    ),
    (
        "Hardware, by DCGM-exporter",
        (
            Panel(
                "timeseries",
                "Working, as DCGM sees it",
                ((f"({dcgm('DCGM_FI_DEV_GPU_UTIL')}) / 100", "{{Hostname}} {{gpu}}"),),
                "percentunit",
                most=1,
            ),
            Panel(
                "timeseries",
                "Lent and idle",
                (
                    (
                        f"({card('memory_leased_bytes')} > 0) and on (UUID) (max by (UUID) (DCGM_FI_DEV_GPU_UTIL) < 5)",
                        "{{Hostname}} {{gpu}}",
                    ),
                ),
                "bytes",
                words="Memory that is lent on cards that do nothing.",
            ),
            Panel("timeseries", "XID errors", ((dcgm("DCGM_FI_DEV_XID_ERRORS") + " > 0", "{{Hostname}} {{gpu}}"),)),
            Panel(
                "timeseries",
                "Power of the cards that a job is on",
                (('sum by (hpc_job) (max by (UUID, hpc_job) (DCGM_FI_DEV_POWER_USAGE{hpc_job!=""}))', "{{hpc_job}}"),),
                "watt",
                words="With gpubroker agent --job-mapping. Jobs that share a card are each told all of it.",
            ),
        ),
    ),
    (
        "Ledger",
        (
            Panel(
                "timeseries",
                "Memory of Redis",
                ((pool("server_memory_used_bytes"), "used"), (pool("server_memory_limit_bytes"), "maxmemory")),
                "bytes",
            ),
            Panel(
                "timeseries",
                "What a scrape took",
                ((pool("scrape_duration_seconds", "instance"), "{{instance}}"),),
                "s",
            ),
        ),
    ),
)
