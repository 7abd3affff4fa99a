"""Each planted publisher shows its defect where the real one is shown to behave (test_publisher.py)."""

from __future__ import annotations

import asyncio
import importlib
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from rtmp_bed import Bed, PreparedSource

from harness.systems.planted import deaf_watchdog, hammers, hasty, keeps_quiet, no_idr, quitter, silent_drop
from reference_impl.client.parts import OnMessage, Source
from reference_impl.client.publish import main
from reference_impl.machines.backoff import Backoff
from reference_impl.machines.reconnect import Reconnect, ReconnectSettings
from reference_impl.machines.reconnect_events import OpenConnection, Start, Tick
from reference_impl.media.encoder import SourceSettings
from reference_impl.rtmp.tcp_state import TcpOptions, abort

VARIANTS = ("deaf_watchdog", "hammers", "hasty", "keeps_quiet", "no_idr", "quitter", "silent_drop")


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"harness.systems.planted.{request.param}")


def test_each_variant_says_what_is_wrong_with_it_and_which_playbook_catches_it(variant: ModuleType) -> None:
    assert variant.ROLE == "publisher"
    assert len(variant.DEFECT) > 20
    assert variant.CAUGHT_BY.startswith(("hotspot/", "tcp/", "process/", "egress/"))
    assert variant.__doc__


def test_each_variant_is_a_program_with_the_publishers_options(
    variant: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        variant.main(["--help"])
    assert ended.value.code == 0
    helped = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--help"])
    assert capsys.readouterr().out == helped


def deaf_prepared_source(
    settings: SourceSettings, media: Path | None, on_message: OnMessage, loop: asyncio.AbstractEventLoop
) -> Source:
    return no_idr.DeafSource(PreparedSource(settings, media, on_message, loop))


async def test_no_idr_goes_on_in_the_middle_of_a_gop() -> None:
    async with Bed(parts=replace(no_idr.PARTS, source=deaf_prepared_source)) as bed:
        first = await bed.live()
        assert first.videos()[:2] == [b"avcC", b"idr"]
        abort(first.connection.transport)
        await bed.until_told("reconnect:completed")
        second = bed.server.accepted[-1]
        assert second.videos()[:2] == [b"avcC", b"p"]
        assert b"idr" not in second.videos()


async def test_the_deaf_watchdog_never_notices_that_the_peer_stopped_reading() -> None:
    async with Bed(parts=deaf_watchdog.PARTS, stall_after=0.6) as bed:
        first = await bed.live()
        first.connection.transport.pause_reading()
        await asyncio.sleep(1.5)
        assert bed.told.named("stall:detected") == bed.told.named("reconnect:started") == []
        assert bed.statuses()[-1] == "live"


async def test_the_hasty_one_reconnects_at_a_blip_of_400_ms() -> None:
    async with Bed(parts=hasty.PARTS, tcp=TcpOptions(send_buffer=8192)) as bed:
        first = await bed.live()
        first.connection.transport.pause_reading()
        await bed.until_told("stall:detected", within=2)
        [stall] = bed.told.named("stall:detected")
        assert 200 <= stall["age_ms"] < 400
        await bed.until_told("reconnect:completed")


async def test_the_quitter_says_stopped_and_is_back_a_moment_later() -> None:
    async with Bed(parts=quitter.PARTS) as bed:
        first = await bed.live()
        abort(first.connection.transport)
        await bed.until_told("reconnect:completed")
        assert bed.statuses() == ["connecting", "live", "stopped", "live"]


async def test_the_silent_dropper_resets_the_old_connection_before_it_has_a_new_one() -> None:
    async with Bed(parts=silent_drop.PARTS, stall_after=0.6, tcp=TcpOptions(send_buffer=8192)) as bed:
        first = await bed.live()
        bed.server.stop_listening()
        first.connection.transport.pause_reading()
        await bed.until_told("connection:reset")
        assert bed.moment("connection:reset") > bed.moment("connect:established", last=True)
        assert len(bed.told.named("connect:established")) == 1
        await bed.server.start(port=bed.port)
        await bed.until_told("reconnect:completed")


@pytest.mark.parametrize(("make", "most"), [(Reconnect, 5), (hammers.PARTS.reconnect, 1000)], ids=["real", "hammer"])
def test_the_hammer_dials_many_times_a_second_while_nobody_answers(
    make: Callable[[ReconnectSettings, Backoff], Reconnect], most: int
) -> None:
    machine = make(ReconnectSettings(), Backoff(random.Random(1)))
    actions, now = machine.handle(Start(), now=0.0), 0.0
    while (now := machine.next_deadline() or 1.0) < 1.0:
        actions += machine.handle(Tick(), now=now)
    dialled = sum(isinstance(action, OpenConnection) for action in actions)
    assert most / 25 < dialled <= most


async def test_the_quiet_one_is_live_all_the_time_by_its_own_account() -> None:
    async with Bed(parts=keeps_quiet.PARTS) as bed:
        first = await bed.live()
        abort(first.connection.transport)
        await bed.until_told("reconnect:completed")
        assert "reconnecting" not in bed.statuses()
