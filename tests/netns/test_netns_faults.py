"""Faults as the netns engine performs them: on time, felt by the kernel, healed, with a receipt."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from netns_support import WITHIN_S, Events, MakeLab

from harness.engines.netns import Lab, measure
from harness.engines.netns.process import NodeProcess
from harness.errors import HarnessError
from harness.faults import (
    BlackHole,
    CarrierOff,
    ChangeLink,
    InterfaceDown,
    Kill,
    NatRebind,
    NatStateLost,
    Pause,
    Restart,
)

pytestmark = pytest.mark.netns
MS = 1_000_000
SLEEPER = [sys.executable, "-c", "import time; time.sleep(99)"]
LOOK = "ip -o addr show wlan0; ip route; ip -6 route; cat /sys/class/net/wlan0/operstate"


async def _sleeper(lab: Lab, node: str, source: str) -> NodeProcess:
    return await lab.start(node, source=source, program="sleeper", argv=SLEEPER, harnessed=False)


async def test_a_black_hole_swallows_until_it_is_healed_and_counts(make_lab: MakeLab, events: Events) -> None:
    lab = await make_lab()
    assert len(await lab.echo("phone", "gateway")) == 1
    await lab.schedule("f1", BlackHole(link="backhaul", direction="up"), enter_ns=None, leave_ns=None)
    assert await lab.echo("phone", "gateway", count=2, within_ns=50 * MS) == []
    await lab.heal("f1")
    await lab.heal("f1")
    assert len(await lab.echo("phone", "gateway")) == 1
    left = await events.until("fault:left")
    assert (left["fault"], left["touched"]) == ("f1", 2)
    assert len(events.named("fault:left")) == 1
    assert (await events.until("fault:entered"))["settings"] == {"link": "backhaul", "direction": "up"}


async def test_a_fault_loaded_beforehand_enters_and_leaves_on_time(make_lab: MakeLab, events: Events) -> None:
    lab = await make_lab()
    enter = lab.now_ns() + 100 * MS
    leave = enter + 50 * MS
    await lab.schedule("f", BlackHole(link="backhaul"), enter_ns=enter, leave_ns=leave)
    await events.until("fault:left")
    ((entered, _),), ((left, _),) = events.named("fault:entered"), events.named("fault:left")
    assert 0 <= entered - enter < 20 * MS
    assert 0 <= left - leave < 20 * MS


async def test_faults_show_at_the_probe_when_they_should(namespaces: None) -> None:
    samples = await measure.fault_effect_ms(10)
    assert samples.median < 2.0
    assert samples.quantile(0.9) < 10


async def test_a_wrong_name_is_refused_when_the_fault_is_loaded(make_lab: MakeLab) -> None:
    lab = await make_lab()
    soon = lab.now_ns() + 10_000 * MS
    with pytest.raises(HarnessError, match="did you mean 'backhaul'"):
        await lab.schedule("f", BlackHole(link="backhual"), enter_ns=soon, leave_ns=None)
    with pytest.raises(HarnessError, match="interface of phone"):
        await lab.schedule("g", CarrierOff(node="phone", interface="eth7"), enter_ns=soon, leave_ns=None)


async def _look(lab: Lab, tmp_path: Path, name: str) -> str:
    process = await lab.start("phone", source=name, program="sh", argv=["sh", "-c", LOOK], harnessed=False)
    await asyncio.wait_for(process.exited.wait(), WITHIN_S)
    return (tmp_path / f"logs/{name}.log").read_text()


@pytest.mark.parametrize("kind", [CarrierOff, InterfaceDown])
async def test_a_lost_interface_is_felt_by_the_node_and_comes_back_whole(
    make_lab: MakeLab, events: Events, tmp_path: Path, kind: type[CarrierOff]
) -> None:
    lab = await make_lab()
    before = await _look(lab, tmp_path, "before")
    await lab.schedule("off", kind(node="phone", link="wifi"), enter_ns=None, leave_ns=None)
    during = await _look(lab, tmp_path, "during")
    assert await lab.echo("gateway", "viewer") != [], "others are not touched"
    await lab.heal("off")
    async with asyncio.timeout(WITHIN_S):
        while not await lab.echo("phone", "gateway", within_ns=100 * MS):
            pass
    after = await _look(lab, tmp_path, "after")
    assert "2001:db8" in before
    assert ("default dev wlan0" in during) is (kind is CarrierOff), (
        "airplane mode takes the routes, no coverage does not"
    )
    assert during != before
    assert sorted(after.split()) == sorted(before.split())
    left = await events.until("fault:left")
    assert left["touched"] == 1
    assert left["receipt"]["seen_by_node"]["wlan0"]["carrier"] is False
    assert [data["up"] for _, data in events.named("carrier:changed")] == [False, True]


async def test_a_kill_is_expected_and_leaves_its_receipt_at_once(make_lab: MakeLab, events: Events) -> None:
    lab = await make_lab()
    victim = await _sleeper(lab, "phone", "publisher")
    bystander = await _sleeper(lab, "phone", "other")
    await lab.schedule("k", Kill(role="publisher"), enter_ns=None, leave_ns=None)
    exited = await events.until("process:exited")
    assert (exited["pid"], exited["signal"], exited["expected"]) == (victim.pid, 9, True)
    assert (await events.until("fault:left"))["touched"] == 1
    assert not bystander.exited.is_set()


async def test_a_kill_of_nobody_touches_nothing(make_lab: MakeLab, events: Events) -> None:
    lab = await make_lab()
    await lab.schedule("k", Kill(role="publisher"), enter_ns=None, leave_ns=None)
    assert (await events.until("fault:left"))["touched"] == 0


async def _reaches_state(lab: Lab, pid: int, states: str) -> None:
    """A stop signal is taken a moment after it was sent."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            taken = await lab.ledger("state")
            if next(entry["state"][0] for entry in taken["processes"] if entry["pid"] == pid) in states:
                return


async def test_a_paused_program_stands_still_and_goes_on(make_lab: MakeLab, events: Events) -> None:
    lab = await make_lab()
    program = await _sleeper(lab, "gateway", "gateway")
    await lab.schedule("p", Pause(role="gateway"), enter_ns=None, leave_ns=None)
    await _reaches_state(lab, program.pid, "T")
    await lab.heal("p")
    await _reaches_state(lab, program.pid, "SR")
    assert [data["signal"] for _, data in events.named("process:signalled")] == ["SIGSTOP", "SIGCONT"]


async def test_a_restarted_program_is_another_incarnation_with_the_same_command(
    make_lab: MakeLab, events: Events
) -> None:
    lab = await make_lab()
    first = await _sleeper(lab, "gateway", "gateway")
    restarted: list[NodeProcess] = []
    lab.on_restart(restarted.append)
    await lab.schedule("r", Restart(role="gateway"), enter_ns=None, leave_ns=None)
    await asyncio.wait_for(first.exited.wait(), WITHIN_S)
    assert restarted == []
    await lab.heal("r")
    (second,) = restarted
    assert (second.incarnation, second.argv, second.source) == (2, first.argv, "gateway")
    assert [data["incarnation"] for _, data in events.named("process:started")] == [1, 2]


async def test_moments_of_a_nat_and_changes_of_a_link_are_told(make_lab: MakeLab, events: Events) -> None:
    lab = await make_lab()
    await lab.echo("phone", "gateway")
    await lab.schedule("n", NatRebind(router="hotspot"), enter_ns=None, leave_ns=None)
    await lab.schedule("s", NatStateLost(router="hotspot"), enter_ns=None, leave_ns=None)
    await lab.schedule("c", ChangeLink(link="wifi", delay_ns=30 * MS), enter_ns=None, leave_ns=None)
    (trip,) = await lab.echo("phone", "gateway")
    assert trip > 60 * MS
    await lab.heal("c")
    (trip,) = await lab.echo("phone", "gateway")
    assert trip < 60 * MS
    rebound = await events.until("nat:rebound")
    assert rebound["router"] == "hotspot"
    assert rebound["mappings"] == 1
    assert [data["fault"] for _, data in events.named("fault:left")] == ["n", "s", "c"]
    changed = [data for _, data in events.named("link:changed")]
    assert [(data["link"], data["direction"]) for data in changed] == [("wifi", "up"), ("wifi", "down")] * 2


async def test_closing_heals_what_is_still_broken(make_lab: MakeLab, events: Events) -> None:
    lab = await make_lab()
    await lab.schedule("b", BlackHole(link="backhaul"), enter_ns=None, leave_ns=None)
    await lab.schedule("w", CarrierOff(node="phone"), enter_ns=None, leave_ns=None)
    await lab.close()
    assert {data["fault"] for _, data in events.named("fault:left")} == {"b", "w"}
