"The app as a person meets it: a real browser types a prompt, presses Run, and waits for a clip."
import os
import shutil

import pytest

from jointdit.studio import app as studio
from test_app import free_port, project  # noqa: F401  (the fixture)

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def page(project):
    if not CHROMIUM:
        if os.environ.get("CI") == "true": pytest.fail("CI must test the app in a browser: install chromium, or set CHROMIUM to its path")
        pytest.skip("NOT TESTED: the app in a browser (no chromium found; set CHROMIUM to its path)")
    from playwright.sync_api import sync_playwright
    app = studio.launch(project, port=free_port(), block=False)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport=dict(width=1280, height=900))
        page.goto(app.local_url)
        page.locator("#jd_run").wait_for(timeout=60_000)
        yield page
        browser.close()
    app.close()


def test_a_prompt_becomes_a_clip_with_sound(page, project):
    page.get_by_label("Prompt", exact=True).fill("a large red ball bounces")
    page.get_by_label("Steps", exact=True).fill("3")
    page.keyboard.press("Control+Enter")
    page.locator("video").first.wait_for(state="attached", timeout=120_000)
    page.wait_for_function("() => [...document.querySelectorAll('video')].some(v => v.readyState > 0 && v.duration > 0)", timeout=60_000)
    made = list((project / "outputs/ui_infer").glob("*.mp4"))
    assert len(made) == 1 and made[0].with_suffix(".json").is_file()
    shot = project / "shot.png"
    page.screenshot(path=str(shot))
    assert shot.stat().st_size > 10_000


def test_what_cannot_be_done_is_said_on_the_page(page):
    page.get_by_label("Prompt", exact=True).fill("a ball " * 60)
    page.locator("#jd_run").click()
    page.get_by_text("tokens").first.wait_for(timeout=60_000)
    assert page.get_by_label("Prompt", exact=True).input_value().startswith("a ball a ball")
