"""Each planted gateway does what its sentence says, and the reference in the same conversation does not."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal

import pytest
from gateway_stage import Camera, GatewayProcess, Player, Publisher, alive, frame_of, gateway, is_idr, platform, until

REFERENCE = "reference_impl.gateway.serve"
VARIANTS = (
    "no_gate",
    "forgets_egress",
    "double_stop",
    "refuses_returning",
    "ends_at_once",
    "hangs_at_stop",
    "always_active",
    "ends_too_late",
    "ignores_epochs",
    "forgets_workers",
)


def planted(variant: str) -> str:
    return f"harness.systems.planted.{variant}"


def either(variant: str) -> pytest.MarkDecorator:
    """The same test with the reference (defect False) and the variant (True)."""
    cases = [pytest.param(REFERENCE, False, id="reference"), pytest.param(planted(variant), True, id=variant)]
    return pytest.mark.parametrize(("module", "defect"), cases)


async def push_until(publisher: Publisher, camera: Camera, gw: GatewayProcess, name: str, **fields: str) -> None:
    for _ in range(1000):
        if gw.named(name, **fields):
            return
        publisher.send(camera.shot())
        await asyncio.sleep(0.01)
    raise AssertionError(f"{name} {fields} was not told")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_says_what_is_wrong_with_it_and_who_catches_it(variant: str) -> None:
    module = importlib.import_module(planted(variant))
    assert module.ROLE == "gateway"
    assert module.DEFECT
    folder, _, name = module.CAUGHT_BY.partition("/")
    assert folder in ("hotspot", "tcp", "process", "egress")
    assert name


@either("no_gate")
async def test_a_connection_that_begins_in_the_middle_of_a_gop_is_withheld_until_its_idr(
    module: str, defect: bool
) -> None:
    async with gateway(module=module) as gw:
        camera = Camera(gop=30)
        first = await Publisher(gw.publish_url).connect()
        await first.stream(camera, shots=35, pace=0.01)
        player = await Player(gw.play_url).connect()
        await first.stream(camera, shots=10, headers=False, pace=0.01)
        await until("the pictures so far", lambda: player.frames)
        first.connection.abort()
        await gw.told("session:lost")
        second = await Publisher(gw.publish_url).connect()
        camera.frame = 310
        await second.stream(camera, shots=40, pace=0.01)
        await until("the new pictures", lambda: player.frames[-1] == camera.frame - 1)
        new = next(message for message in player.pictures if (frame_of(message) or 0) >= 300)
        assert is_idr(new) != defect
        assert (gw.named("gate:opened")[-1]["withheld"] == 0) == defect


@either("forgets_egress")
async def test_the_worker_is_gone_when_the_session_has_ended(module: str, defect: bool) -> None:
    async with platform() as sink, gateway("--egress", sink.url, module=module) as gw:
        publisher, camera = await Publisher(gw.publish_url).connect(), Camera()
        publisher.send(camera.headers())
        await push_until(publisher, camera, gw, "egress:state_changed", state="ACTIVE")
        worker = gw.named("egress:started")[0]["worker"]
        publisher.connection.finish()
        await gw.told("session:ended")
        if not defect:
            await gw.told("egress:stopped")
        assert alive(worker) == defect
        if defect:
            assert gw.named("egress:stop_requested") == []
            gw.signal(signal.SIGTERM)
            await gw.ended()
            os.kill(worker, signal.SIGKILL)


@either("double_stop")
async def test_the_egress_is_told_to_stop_once(module: str, defect: bool) -> None:
    async with platform() as sink, gateway("--egress", sink.url, module=module) as gw:
        publisher, camera = await Publisher(gw.publish_url).connect(), Camera()
        publisher.send(camera.headers())
        await push_until(publisher, camera, gw, "egress:state_changed", state="ACTIVE")
        publisher.connection.finish()
        await gw.told("egress:stopped")
        assert len(gw.named("egress:stop_requested")) == (2 if defect else 1)


@either("refuses_returning")
async def test_a_publisher_with_a_dead_connection_may_return(module: str, defect: bool) -> None:
    async with gateway(module=module) as gw:
        ghost = await Publisher(gw.publish_url).connect()
        await ghost.stream(Camera(), shots=3)
        await asyncio.sleep(1.05)
        back = await Publisher(gw.publish_url).connect()
        assert (back.refused == "NetStream.Publish.BadName") == defect
        assert back.started != defect


@either("ends_at_once")
async def test_a_reset_connection_does_not_end_the_session(module: str, defect: bool) -> None:
    async with gateway(module=module) as gw:
        publisher = await Publisher(gw.publish_url).connect()
        await publisher.stream(Camera(), shots=3)
        publisher.connection.abort()
        await gw.told("session:lost")
        status = await gw.ask("status")
        assert (status["sessions"] == []) == defect
        assert bool(gw.named("session:ended")) == defect


@either("ignores_epochs")
async def test_the_close_of_an_old_connection_does_not_harm_the_new_one(module: str, defect: bool) -> None:
    async with gateway(module=module) as gw:
        ghost = await Publisher(gw.publish_url).connect()
        await ghost.stream(Camera(), shots=3)
        await asyncio.sleep(1.05)
        back = await Publisher(gw.publish_url).connect()
        await gw.told("session:taken_over")
        await back.stream(Camera(), shots=3)
        status = await gw.ask("status")
        assert (status["sessions"][0]["state"] != "live") == defect
        assert bool(gw.named("session:lost", epoch=1)) == defect


@either("ends_too_late")
async def test_the_session_ends_when_its_window_has_run_out(module: str, defect: bool) -> None:
    async with gateway("--reconnect-window", "1s", module=module) as gw:
        publisher = await Publisher(gw.publish_url).connect()
        await publisher.stream(Camera(), shots=3)
        publisher.connection.abort()
        lost = await gw.told("session:lost")
        assert (lost["window_s"] > 1.0) == defect


@either("hangs_at_stop")
async def test_a_gateway_that_is_told_to_stop_ends(module: str, defect: bool) -> None:
    async with gateway(module=module) as gw:
        gw.signal(signal.SIGTERM)
        await gw.told("program:stopped")
        await asyncio.sleep(1.0)
        assert gw.process is not None
        assert (gw.process.returncode is None) == defect
        if defect:
            gw.signal(signal.SIGKILL)
