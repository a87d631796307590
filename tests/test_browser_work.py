"Data and Train in a real browser: look at clips, cache a folder, start training, close everything, find it again, stop."
import time
from pathlib import Path

import pytest

from browser_helpers import NARROW, WIDE, browser, close_toasts, fields_without_names, fits, go, open_page, pick, shoot
from jointdit.studio import app as studio
from jointdit.studio.context import Studio
from jointdit.studio.processes import find
from jointdit.studio.training import end, status
from studio_helpers import free_port, make_configs, make_data

RUN = "day05_stage_a_browser"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = make_configs(tmp_path_factory.mktemp("work") / "project")
    for name in ("ui", "day06"): (root / f"configs/{name}_infer.yaml").write_text("out_dir: outputs/ui_infer\nsteps: 2\n")
    make_data(root)
    with open(root / "data/toy/train/metadata.jsonl", "a") as f: f.write('{"id": "lost", "video": "lost.mp4", "caption": "a clip that was deleted"}\n')
    yield root
    p = find(root / "logs/studio" / RUN)
    if p and p.alive: end(Studio(root), RUN, force=True)


@pytest.fixture(scope="module")
def app(project):
    app = studio.launch(Studio(project), port=free_port(), block=False)
    yield app
    app.close()


@pytest.fixture(scope="module")
def chrome():
    with browser() as b: yield b


def wait(fn, seconds=120):
    end = time.time() + seconds
    while time.time() < end:
        if got := fn(): return got
        time.sleep(.3)
    raise AssertionError("waited in vain")


def test_data_shows_table_clips_and_problems(chrome, app):
    page = open_page(chrome, app.local_url, "Data")
    page.get_by_text("picture and sound", exact=True).first.wait_for(timeout=60_000)
    page.wait_for_function("() => document.querySelectorAll('.jd-pair video').length == 2 && [...document.querySelectorAll('.jd-pair video')].every(v => v.duration > 1.9)", timeout=90_000)
    assert page.get_by_text("dB PSNR").first.is_visible() and page.locator(".jd-sheet").evaluate("i => i.naturalWidth") > 300
    shoot(page, "data_1280_light")
    before = page.locator(".jd-pair video").first.get_attribute("src")
    page.get_by_role("button", name="Next").click()
    page.wait_for_function("b => { const v = document.querySelector('.jd-pair video'); return v && v.getAttribute('src') != b }", arg=before, timeout=60_000)
    page.evaluate("document.querySelector('.jd-pair video').play()")       # the other follows, silently
    page.wait_for_function("() => { const [a, b] = document.querySelectorAll('.jd-pair video'); return !a.paused && !b.paused && !a.muted && b.muted }", timeout=20_000)
    pick(page, "Look at", "data/toy/train (clips)")
    page.get_by_text("The list names a file that is not there").first.wait_for(timeout=60_000)
    shoot(page, "data_problems_1280_light")
    page.close()


def test_caching_from_the_page(chrome, app, project):
    page = open_page(chrome, app.local_url, "Data", dark=True)
    fold = page.get_by_role("button", name="Make latents of a folder")
    fold.wait_for(timeout=60_000)
    for _ in range(20):                                     # it opens by itself where nothing is cached yet, which may come before or after a click
        if page.get_by_label("Cache folder").is_visible(): break
        fold.click()
        page.wait_for_timeout(1500)
    page.get_by_label("Cache folder").fill("../elsewhere")
    page.get_by_role("button", name="Start caching").click()
    page.get_by_text("the app only uses files in").first.wait_for(timeout=30_000)       # refused, in words
    page.get_by_label("Cache folder").fill("data/cache_two")
    page.get_by_role("button", name="Start caching").click()
    page.locator(".jd-badge", has_text="running").first.wait_for(timeout=60_000)
    page.locator(".jd-badge", has_text="finished").first.wait_for(timeout=180_000)
    assert (project / "data/cache_two/index_train.json").is_file()
    page.wait_for_function("() => [...document.querySelectorAll('input')].some(i => i.value.includes('cache_two, train'))", timeout=60_000)
    page.wait_for_function("() => ![...document.querySelectorAll('.progress-text')].some(e => e.offsetParent)", timeout=60_000)
    close_toasts(page)
    shoot(page, "data_cached_1280_dark")
    page.close()


def test_training_started_watched_and_stopped(chrome, app, project):
    page = open_page(chrome, app.local_url, "Train")
    page.get_by_text("Nothing has been trained here yet").wait_for(timeout=60_000)
    shoot(page, "train_empty_1280_light")
    page.get_by_label("Name of the run").fill("browser")
    page.get_by_role("button", name="What will hold").click()
    page.get_by_text("this page").first.wait_for(timeout=30_000)
    page.get_by_role("button", name="More settings").click()
    page.get_by_label("Sample clips").fill("1")
    page.get_by_label("Samples every").fill("20")
    page.get_by_label("Any other setting").locator("visible=true").fill("output.save_every=20")
    page.get_by_role("button", name="More settings").click()
    page.get_by_role("button", name="Start training").click()
    page.locator(".jd-badge", has_text="running").first.wait_for(timeout=180_000)
    page.locator(".curves", has_text="now").first.wait_for(timeout=120_000)
    page.locator(".jd-player", has_text="(step 20)").first.wait_for(timeout=180_000)     # a clip, while it learns
    page.wait_for_function("() => [...document.querySelectorAll('.jd-player video')].some(v => v.offsetParent && v.duration > 0)", timeout=30_000)
    wait(lambda: status(Studio(project), RUN).step > 30)
    page.wait_for_timeout(2500)
    assert fields_without_names(page) == []
    shoot(page, "train_running_1280_light")
    page.get_by_role("button", name="Stop safely").click()
    page.locator(".jd-badge", has_text="stopped").first.wait_for(timeout=120_000)
    assert "Saved: " in page.locator(".jd-line", has_text="Stopped after step").first.inner_text()
    page.close()


def test_training_outlives_page_and_app(chrome, app, project):
    page = open_page(chrome, app.local_url, "Train")
    before = status(Studio(project), RUN).step
    page.get_by_label("Name of the run").fill("browser")
    page.get_by_label("Steps", exact=True).locator("visible=true").fill("100000")
    page.get_by_role("button", name="Start training").click()      # goes on from its checkpoint
    page.locator(".jd-badge", has_text="running").first.wait_for(timeout=180_000)
    page.close()
    app.close()
    wait(lambda: status(Studio(project), RUN).step > before + 3)
    again = studio.launch(Studio(project), port=free_port(), block=False)
    try:
        page = open_page(chrome, again.local_url, "Train", NARROW, dark=True)
        page.locator(".jd-badge", has_text="running").first.wait_for(timeout=60_000)
        assert fits(page)
        shoot(page, "train_390_dark")
        page.get_by_role("button", name="Stop safely").click()
        page.locator(".jd-badge", has_text="stopped").first.wait_for(timeout=120_000)
        go(page, "Data")
        page.wait_for_function("() => [...document.querySelectorAll('.jd-pair video')].filter(v => v.offsetParent && v.duration > 1).length == 2", timeout=90_000)
        assert fits(page)
        shoot(page, "data_390_dark")
        page.close()
        page = open_page(chrome, again.local_url, "Train", WIDE, dark=True)
        page.locator(".curves", has_text="now").first.wait_for(timeout=60_000)
        shoot(page, "train_1280_dark")
    finally: again.close()
