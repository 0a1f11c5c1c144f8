"""Health of a card: what drains it, what lifts that, and what an XID means."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.health import DRAIN, IGNORE, RESTART, TABLE, XID_MOST, Finding, Health, actions
from broker.errors import InvalidRequest

WELL: Mapping[str, int | str] = {"ecc_uncorrected": 0, "rows_failed": 0, "rows_pending": 0, "recovery": "none"}


def look(health: Health, now: float, *xids: int, readable: bool = True, **hardware: int | str) -> Finding:
    """One look at a card that is well but for what is told."""
    return health.see(now, xids, {**WELL, **hardware} if readable else {}, readable)


@pytest.mark.parametrize("xid", [13, 31, 43, 45, 63, 68, 69, 92, 109, 154, 9999])
def test_errors_of_applications_news_and_the_unknown_are_reported_and_ignored(xid: int) -> None:
    found = look(Health(), 0, xid, xid)
    assert (found.drained, found.restart, found.reason) == (False, False, "")
    assert [(one.xid, one.action) for one in found.xids] == [(xid, IGNORE)]
    assert found.xids[0].meaning


def test_a_contained_memory_error_asks_jobs_to_start_again_once() -> None:
    health = Health()
    assert look(health, 0, 94).restart is True
    assert look(health, 1) == Finding(drained=False, reason="", restart=False, xids=())


@pytest.mark.parametrize("xid", [46, 48, 62, 64, 74, 79, 95, 119, 120, 140, 143])
def test_errors_of_the_card_drain_it_also_where_it_cannot_be_read(xid: int) -> None:
    for readable in (True, False):
        found = look(Health(), 0, xid, readable=readable)
        assert found.drained
        assert f"XID {xid}: {TABLE[xid][1]}" in found.reason


def test_uncorrected_errors_count_from_the_first_look_and_from_a_new_driver() -> None:
    health = Health()
    assert not look(health, 0, ecc_uncorrected=7).drained
    assert not look(health, 1, ecc_uncorrected=7).drained
    assert not look(health, 2, ecc_uncorrected=0).drained
    assert look(health, 3, ecc_uncorrected=1).reason == "memory errors that could not be corrected"
    assert not Health().see(0, (), {}, True).drained


@pytest.mark.parametrize(
    ("cause", "word"),
    [({"rows_failed": 1}, "failed"), ({"rows_pending": 1}, "a reset is needed"), ({"recovery": "reboot"}, "reboot")],
)
def test_a_standing_cause_holds_as_long_as_it_stands(cause: dict[str, int | str], word: str) -> None:
    health = Health(clean_seconds=10)
    for now in range(0, 100, 5):
        found = look(health, now, **cause)
        assert found.drained
        assert word in found.reason
    assert look(health, 100).drained
    assert "over" in look(health, 104).reason
    assert look(health, 105) == Finding(drained=False, reason="", restart=False, xids=())


def test_what_cannot_be_read_neither_cleans_nor_soils() -> None:
    health = Health(clean_seconds=10)
    assert not look(health, 0, readable=False).drained
    look(health, 1, 48)
    assert look(health, 7).drained
    for now in (8, 50, 90):
        assert look(health, now, readable=False).drained
    assert look(health, 91).drained  # 6 s were clean, and nobody saw the rest
    assert look(health, 94).drained
    assert not look(health, 95).drained


def test_a_standing_cause_is_told_while_the_card_cannot_be_read() -> None:
    health = Health()
    told = look(health, 0, 64, rows_failed=1).reason
    assert look(health, 1, readable=False).reason == told == f"XID 64: {TABLE[64][1]}; remapping of a memory row failed"


def test_a_new_cause_begins_the_time_anew_and_the_reason_names_both() -> None:
    health = Health(clean_seconds=10)
    look(health, 0, 48)
    told = look(health, 9, 79)
    assert "XID 48" in told.reason
    assert "XID 79" in told.reason
    assert look(health, 18).drained
    assert not look(health, 19).drained
    assert look(health, 20, 62).reason == f"XID 62: {TABLE[62][1]}"


def test_an_agent_that_starts_goes_on_with_its_own_mark() -> None:
    first, second = Health(clean_seconds=10), Health(clean_seconds=10)
    mark = look(first, 0, 48, rows_pending=1).reason
    second.resume(1000, mark)
    assert look(second, 1005, 48, rows_pending=1).reason == mark
    assert look(second, 1014).drained
    assert not look(second, 1015).drained


def test_a_resumed_mark_without_words_is_lifted_as_well() -> None:
    health = Health(clean_seconds=10)
    health.resume(0, "")
    assert look(health, 9).reason
    assert not look(health, 10).drained


def test_a_clock_that_steps_back_cleans_nothing() -> None:
    health = Health(clean_seconds=10)
    look(health, 100, 48)
    assert look(health, 50).drained
    assert look(health, 59).drained
    assert not look(health, 60).drained


def test_overrides_win_over_the_table() -> None:
    table = actions({"xid_ignore": "48, 79", "xid_restart": "13", "xid_drain": "9999", "temp_optimal": "60"})
    assert [table[xid] for xid in (48, 79, 13, 9999, 94, 95)] == [IGNORE, IGNORE, RESTART, DRAIN, RESTART, DRAIN]
    health = Health(table=table)
    assert not look(health, 0, 48).drained
    assert look(health, 1, 13).restart
    assert "not in NVIDIA's list" in look(health, 2, 9999).reason
    assert actions({}) == actions() == actions({"xid_drain": ""}) == {xid: action for xid, (action, _) in TABLE.items()}


@pytest.mark.parametrize("text", ["x", "48;79", "48,", ",", " ", "0", "-1", "65536", "1e3", "٤٨", "4.8", "9" * 5000])
def test_a_text_that_is_no_list_of_xids_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="xid_drain") as refused:
        actions({"xid_drain": text})
    assert refused.value.field == "xid_drain"


@pytest.mark.parametrize("overrides", [{"xid_ignore": "48", "xid_drain": "79,48"}, {"xid_drain": "48,48"}])
def test_an_xid_has_one_action(overrides: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="XID 48 stands in xid_"):
        actions(overrides)


@given(st.text(max_size=20))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        table = actions({"xid_restart": text})
    except InvalidRequest:
        return
    assert all(1 <= xid <= XID_MOST and action in (IGNORE, RESTART, DRAIN) for xid, action in table.items())


def test_every_known_xid_has_an_action_and_one_line() -> None:
    for xid, (action, meaning) in TABLE.items():
        assert 1 <= xid <= XID_MOST
        assert action in (IGNORE, RESTART, DRAIN)
        assert meaning
        assert "\n" not in meaning
        assert "; " not in meaning  # it parts the causes of a reason


LOOKS = st.lists(
    st.tuples(
        st.floats(0, 400),
        st.lists(st.sampled_from([13, 48, 79, 94, 9999]), max_size=1),
        st.fixed_dictionaries(
            {}, optional={"ecc_uncorrected": st.integers(0, 2), "rows_pending": st.integers(0, 1),
                          "recovery": st.sampled_from(["none", "reset"])}
        ),
        st.booleans(),
    ),
    max_size=40,
)  # fmt: skip


@given(LOOKS, st.floats(0, 1000), st.booleans())
def test_a_drain_has_a_cause_and_is_never_lifted_before_its_time(
    looks: list[tuple[float, list[int], dict[str, int | str], bool]], clean_seconds: float, resumed: bool
) -> None:
    health, now, drained, soiled = Health(clean_seconds), 0.0, False, -1.0
    if resumed:
        health.resume(now, "XID 48: before")
        drained, soiled = True, now
    errors: int | str | None = None
    for pause, xids, hardware, readable in looks:
        now += pause
        found = health.see(now, xids, hardware, readable)
        cause = bool({48, 79} & set(xids))
        if readable:
            counted = hardware.get("ecc_uncorrected", errors)
            cause |= errors is not None and counted is not None and int(counted) > int(errors)
            cause |= hardware.get("rows_pending") == 1 or hardware.get("recovery") == "reset"
            errors = counted
        if cause:
            soiled = now
            assert found.drained
        if found.drained:
            assert drained or cause
            assert found.reason
        elif drained:
            assert readable
            assert now - soiled >= clean_seconds * (1 - 1e-9)
        assert found.drained or found.reason == ""
        assert found.restart == (94 in xids)
        drained = found.drained


@given(LOOKS)
def test_a_card_without_causes_is_never_drained_nor_has_a_mark_to_lift(
    looks: list[tuple[float, list[int], dict[str, int | str], bool]],
) -> None:
    health, now = Health(), 0.0
    for pause, _, _, readable in looks:
        now += pause
        assert health.see(now, (13, 94), WELL, readable).drained is False
