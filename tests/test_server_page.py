"""The page in a real browser: headless Chromium, as a person would use it."""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from bidiffsr.server.app import create_app
from bidiffsr.server.options import ServerOptions
from bidiffsr.upscaling.models import Models
from served import Gate, listening, opened, picture
from tiny_model import tiny_upscaler

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core")

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, PROGRAMS)), None)
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(PROGRAM is None, reason="needs Chromium: apt-get install chromium"),
]
PATIENCE = 240_000  # milliseconds, for a machine that does other things, too
LAST = "#jobs > li:last-child "


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=PROGRAM)
        yield running
        running.close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    options = ServerOptions(max_bytes=100_000, max_pixels=10_000)
    with listening(
        create_app(Models(tiny_upscaler(tail=0.3, sees_noise=True)), options)
    ) as address:
        yield address


class Opened:
    """A page, and all that the browser complains of."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)
        self.page.goto(url)

    def _heard(self, message: Any) -> None:
        # Answers that are errors, the browser tells of by itself.
        own = message.text.startswith("Failed to load resource")
        if message.type in ("error", "warning") and not own:
            self.complaints.append(message.text)

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, kind: object, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert self.complaints == []


def file(name: str = "photo.png", data: bytes | None = None) -> Any:
    return {"name": name, "mimeType": "image/png", "buffer": data or picture(40, 30)}


def choose(page: Any, *files: Any) -> None:
    page.locator("#work").wait_for()
    page.set_input_files("#files", list(files))


def downloaded(page: Any, press: Any) -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        press()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def accessible(page: Any) -> None:
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_upload_progress_slider_download(browser: Any) -> None:
    upscaler = tiny_upscaler(tail=0.3)
    gate = Gate(upscaler)
    with (
        listening(create_app(Models(upscaler), ServerOptions())) as address,
        Opened(browser, address) as page,
    ):
        data = picture(40, 30)
        choose(page, file(data=data))
        after = page.locator(LAST + ".stage > .after")
        page.locator(LAST + ".stage > .after[src^='data:']").wait_for()
        assert "step 1 of 2" in page.locator(LAST + ".state").inner_text()
        assert page.locator(LAST + ".size").inner_text() == "40 × 30 → 160 × 120"
        assert page.locator(LAST + ".download").is_hidden()
        gate.open()
        page.locator(LAST + ".download").wait_for()
        assert after.evaluate("image => image.src").startswith("blob:")
        sizes = "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"
        assert after.evaluate(sizes) == [160, 120]
        before = page.locator(LAST + ".stage > .before")
        assert before.evaluate(sizes) == [40, 30]
        slider = page.locator(LAST + ".slider input")
        clip = "image => getComputedStyle(image).clipPath"
        for share in (0, 25, 100):
            slider.fill(str(share))
            assert f"{100 - share}%" in before.evaluate(clip).replace("calc(0%)", "0%") or (
                share == 100 and re.search(r"inset\(0px?( 0%| 0px)", before.evaluate(clip))
            )
        name, result = downloaded(page, page.locator(LAST + ".download").click)
        assert name == "photo_x4.png"
        expected = upscaler(np.array(opened(data)))
        assert np.array_equal(np.array(opened(result)), expected)


def test_by_keyboard_alone(browser: Any, url: str) -> None:
    with Opened(browser, url) as page:
        choosers: list[Any] = []
        page.on("filechooser", lambda chooser: choosers.append(chooser))
        page.locator("#work").wait_for()

        def tab_to(selector: str) -> None:
            for _ in range(40):
                page.keyboard.press("Tab")
                if page.evaluate("text => document.activeElement.matches(text)", selector):
                    return
            raise AssertionError(f"{selector} is not reached")

        tab_to("[name=scale]")
        page.keyboard.press("Control+A")
        page.keyboard.type("2")
        tab_to("#files")
        # What has the focus shows it.
        outline = page.locator(".drop label").evaluate("label => getComputedStyle(label).outline")
        assert "solid" in outline
        page.keyboard.press("Enter")
        while not choosers:
            page.wait_for_timeout(50)
        choosers[0].set_files([file()])
        page.locator(LAST + ".download").wait_for()
        tab_to(".stage")
        page.keyboard.press("ArrowRight")
        assert page.locator(LAST + ".lens").is_visible()
        place = "lens => Number(getComputedStyle(lens).getPropertyValue('--x'))"
        x = page.locator(LAST + ".lens").evaluate(place)
        page.keyboard.press("ArrowRight")
        assert page.locator(LAST + ".lens").evaluate(place) > x
        tab_to(".slider input")
        page.keyboard.press("Home")
        assert page.locator(LAST + ".slider input").input_value() == "0"
        tab_to(".lens-switch")
        page.keyboard.press("Space")
        assert page.locator(LAST + ".lens").is_hidden()
        tab_to(".download")
        name, result = downloaded(page, lambda: page.keyboard.press("Enter"))
        assert name == "photo_x2.png"
        assert opened(result).size == (80, 60)
        tab_to(".remove")
        page.keyboard.press("Enter")
        page.locator("#jobs > li").wait_for(state="detached")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_a_narrow_screen_and_nothing_sticks_out(
    browser: Any, url: str, scheme: str
) -> None:
    narrow = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}
    with Opened(browser, url, color_scheme=scheme, **narrow) as page:
        page.locator("#work").wait_for()
        accessible(page)
        page.locator("[name=samples]").fill("2")
        long_name = file(f"{'holiday' * 20}.png", picture(100, 20))
        choose(page, file("notes.png", b"no picture"), long_name)
        page.locator(LAST + ".download").wait_for()
        page.locator(LAST + ".lens-switch").click()
        page.locator(LAST + ".uncertainty-switch").click()
        page.locator(LAST + ".legend").wait_for()
        assert "not a picture" in page.locator("#jobs > li:first-child .state").inner_text()
        accessible(page)
        assert page.evaluate("document.scrollingElement.scrollWidth") == 320
        # Large enough for a finger (WCAG 2.2, 2.5.8 asks for 24).
        for target in page.locator("button, a, input, select").all():
            box = target.bounding_box()
            if target.is_visible() and target.get_attribute("id") != "files":
                assert min(box["width"], box["height"]) >= 40


def test_several_at_once_all_in_one_archive(browser: Any, url: str) -> None:
    with Opened(browser, url) as page:
        pictures = [picture(10 + index, 9, seed=index) for index in range(8)]
        choose(page, *(file(f"{index}.png", data) for index, data in enumerate(pictures)))
        page.locator(LAST + ".download").wait_for()
        name, data = downloaded(page, page.locator("#download-all").click)
        assert name == "pictures.zip"
        archive = zipfile.ZipFile(io.BytesIO(data))
        assert archive.namelist() == [f"{index}_x4.png" for index in range(8)]
        for index, each in enumerate(archive.namelist()):
            assert opened(archive.read(each)).size == (4 * (10 + index), 36)


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_dropped_and_pasted_pictures(browser: Any, url: str, way: str) -> None:
    give = """([way, bytes]) => {
        const held = new DataTransfer();
        held.items.add(new File([new Uint8Array(bytes)], "given.png", { type: "image/png" }));
        const event = way === "drop"
            ? new DragEvent("drop", { dataTransfer: held, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: held, bubbles: true });
        document.body.dispatchEvent(event);
        return event.defaultPrevented;
    }"""
    with Opened(browser, url) as page:
        page.locator("#work").wait_for()
        prevented = page.evaluate(give, [way, list(picture(8, 8))])
        assert prevented or way == "paste"  # or the browser would leave the page for the picture
        page.locator(LAST + ".download").wait_for()
        assert page.locator(LAST + "h2").inner_text() == "given.png"


def test_uncertainty_is_the_standard_deviation_of_the_results(browser: Any, url: str) -> None:
    with Opened(browser, url) as page:
        page.locator("#work").wait_for()
        page.locator("[name=samples]").fill("3")
        choose(page, file())
        page.locator(LAST + ".download").wait_for()
        results = []
        for index in range(3):
            page.locator(LAST + ".chooser select").select_option(index=index)
            name, data = downloaded(page, page.locator(LAST + ".download").click)
            assert name == f"photo_x4_{index + 1}.png"
            results.append(np.array(opened(data)) / 255)
        page.locator(LAST + ".uncertainty-switch").click()
        page.locator(LAST + ".legend").wait_for()
        legend = page.locator(LAST + ".legend").inner_text()
        mean, most = (float(number) for number in re.findall(r"([\d.]+) % (?:of|at)", legend))
        deviation = np.sqrt(np.var(results, axis=0, ddof=1).mean(axis=2))
        assert deviation.max() > 0.001
        assert mean == pytest.approx(100 * deviation.mean(), abs=0.06)
        assert most == pytest.approx(100 * deviation.max(), abs=0.06)
        drawn = page.locator(LAST + ".uncertainty").evaluate(
            "canvas => [canvas.width, canvas.height,"
            " ...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
        )
        assert drawn[:2] == [160, 120]
        opacity = np.array(drawn[2:]).reshape(120, 160, 4)[..., 3]
        strong, weak = deviation > np.quantile(deviation, 0.9), deviation < np.median(deviation)
        assert opacity[strong].mean() > opacity[weak].mean()
        page.locator(LAST + ".uncertainty-switch").click()
        assert page.locator(LAST + ".uncertainty").is_hidden()


def test_a_kind_that_browsers_do_not_show_is_seen_as_previews(browser: Any, url: str) -> None:
    with Opened(browser, url) as page:
        choose(page, file("scan.tif", picture(30, 20, "TIFF")))
        page.locator(LAST + ".download").wait_for()
        for which in ("before", "after"):
            image = page.locator(LAST + f".stage > .{which}")
            while not image.evaluate("image => image.complete && image.naturalWidth"):
                page.wait_for_timeout(50)
        name, data = downloaded(page, page.locator(LAST + ".download").click)
        assert (name, opened(data).format) == ("scan_x4.tif", "TIFF")


def test_what_is_removed_stops_and_the_next_goes_on(browser: Any) -> None:
    upscaler = tiny_upscaler()
    gate = Gate(upscaler)
    app = create_app(Models(upscaler), ServerOptions())
    with listening(app) as address, Opened(browser, address) as page:
        choose(page, file("first.png"), file("second.png"))
        assert gate.reached.wait(PATIENCE / 1000)
        page.locator("#jobs > li:first-child .view").wait_for()
        page.get_by_role("button", name="Cancel first.png").click()
        gate.open()
        page.locator(LAST + ".download").wait_for()
        assert page.locator("#jobs h2").all_inner_texts() == ["second.png"]


def test_with_a_token_the_page_asks_for_it_once(browser: Any) -> None:
    app = create_app(Models(tiny_upscaler()), ServerOptions(token="s3cret"))
    with listening(app) as address:
        with Opened(browser, address) as page:
            page.locator("#access").wait_for()
            accessible(page)
            page.locator("#token").fill("wrong")
            page.locator("#token").press("Enter")
            page.get_by_text("That is not the token.").wait_for()
            page.locator("#token").fill("s3cret")
            page.locator("#token").press("Enter")
            choose(page, file())
            downloaded(page, page.locator(LAST + ".download").click)
        with Opened(browser, f"{address}/#token=s3cret") as page:
            page.locator("#work").wait_for()
            assert page.url == f"{address}/"


def test_a_busy_server_is_asked_again(browser: Any) -> None:
    upscaler = tiny_upscaler()
    gate = Gate(upscaler)
    app = create_app(Models(upscaler), ServerOptions(max_waiting=1))
    with listening(app) as address, Opened(browser, address) as page:
        choose(page, *(file(f"{index}.png") for index in range(3)))
        page.get_by_text("pictures are waiting already").wait_for()
        gate.open()
        page.locator(LAST + ".download").wait_for()
        assert page.locator(".download:visible").count() == 3


def test_another_sites_page_can_neither_send_nor_see(browser: Any, url: str) -> None:
    elsewhere = url.replace("127.0.0.1", "localhost")  # another origin, the same machine
    ask = """async (address) => {
        const sent = await fetch(`${address}/api/jobs`, { method: "POST", body: "x" }).then(
            () => "seen", (error) => error.name);
        const got = await fetch(`${address}/api/model`).then(() => "seen", (error) => error.name);
        return JSON.stringify([sent, got]);
    }"""
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(elsewhere)
    assert json.loads(page.evaluate(ask, url)) == ["TypeError", "TypeError"]
    assert 'bidiffsr_refused_requests_total{status="403"} 1.0' in httpx2.get(f"{url}/metrics").text
    context.close()


def test_the_policy_lets_no_script_in(browser: Any, url: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.broken = true";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.broken=true'>");
    }""")
    page.wait_for_timeout(500)
    assert page.evaluate("window.broken") is None
    context.close()
