"""Which model a server upscales a picture with."""

from __future__ import annotations

import numpy as np
import pytest
from fastapi.testclient import TestClient

from bidiffsr import Upscaler
from bidiffsr.images.decode import decode_image
from bidiffsr.server.app import create_app
from bidiffsr.server.options import ServerOptions
from bidiffsr.upscaling.models import Models
from bidiffsr.upscaling.options import UpscaleOptions
from served import OWN, opened, picture, wait_for
from tiny_model import tiny_upscaler

pytestmark = pytest.mark.usefixtures("one_thread")

ASKED = [{}, {"quality": "fast"}, {"scale": 2}, {"scale": 1.5, "quality": "fast"}, {"scale": 3}]


@pytest.mark.parametrize("model", ["default", "x4-detail"])
def test_a_servers_results_are_the_commands(model: str) -> None:
    data = picture(24, 20)
    pixels = decode_image(data).pixels
    app = create_app(Models.load(model, threads=1), ServerOptions())
    with TestClient(app, base_url=OWN) as server:
        for asked in ASKED:
            sent = server.post("/api/jobs", params=asked, content=data)
            job = wait_for(server, sent.json()["url"])
            result = server.get(job["results"][0]["url"]).content
            known = Upscaler.from_pretrained(model, **asked, threads=1)
            assert np.array_equal(np.asarray(opened(result)), known(pixels, **asked)), asked


def test_only_the_model_at_work_keeps_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[Upscaler] = []
    monkeypatch.setattr(Upscaler, "release_memory", lambda self: released.append(self))
    main, fast = tiny_upscaler(), tiny_upscaler()
    models = Models(main, {"x4-small": fast})
    quick = UpscaleOptions(quality="fast")
    assert models.of(quick) is fast
    turned = [models.turn_to(each) for each in (UpscaleOptions(), quick, quick, UpscaleOptions())]
    assert turned == [main, fast, fast, main]
    assert released == [main, fast]
