"The app as a person meets it: a real browser makes clips, stops, looks back, compares, tries weights. Pictures go to outputs/ui_screens."
import pytest

from browser_helpers import NARROW, browser, fits, go, open_page, shoot
from jointdit.studio import app as studio
from jointdit.studio.wishes import example
from test_app import free_port, project  # noqa: F401  (the fixture)


@pytest.fixture(scope="module")
def chrome():
    with browser() as b: yield b


@pytest.fixture(scope="module")
def app(project):
    app = studio.launch(project, port=free_port(), block=False)
    yield app
    app.close()


@pytest.fixture(scope="module")
def page(chrome, app):
    page = open_page(chrome, app.local_url)
    page.locator("#jd_run").wait_for()
    page.wait_for_timeout(1500)
    yield page


def clips(project): return sorted((project / "outputs/ui_infer").glob("*.mp4"))


def wish(page, prompt="a large red ball bounces", steps=3, seed=0):
    go(page, "Generate")
    for label, value in (("Prompt", prompt), ("Steps", steps), ("Seed", seed)): page.get_by_label(label, exact=True).fill(str(value))


def done(page): page.locator("#jd_live").wait_for(state="hidden", timeout=120_000)


def test_a_prompt_becomes_a_clip_with_sound(page, project):
    shoot(page, "generate_empty")
    wish(page)
    page.get_by_label("Prompt", exact=True).press("Control+Enter")
    page.locator(".jd-live").first.wait_for(timeout=60_000)
    page.wait_for_function("() => [...document.querySelectorAll('.jd-clip video')].some(v => v.readyState > 0 && v.duration > 0)", timeout=120_000)
    done(page)
    assert len(clips(project)) == 1 and clips(project)[0].with_suffix(".json").is_file()
    assert page.get_by_text("Evaluations").first.is_visible() and page.get_by_role("button", name="MP4").first.is_visible()
    shoot(page, "generate")


def test_stop_midway(page, project, app):
    wish(page, steps=400, seed=1)
    page.locator("#jd_run").click()
    page.get_by_text("of 400").first.wait_for(timeout=60_000)
    page.locator(".jd-live img").first.wait_for(timeout=60_000)
    shoot(page, "generate_live")
    page.locator("#jd_stop").click()
    page.get_by_text("Stopped").first.wait_for(timeout=30_000)
    assert len(clips(project)) == 1 and app.studio.jobs.kept[-1].state == "stopped" and app.studio.kits.kit is not None


def test_what_cannot_be_done_is_said_on_the_page(page):
    wish(page, "a ball " * 60)
    page.locator("#jd_run").click()
    page.get_by_text("tokens").first.wait_for(timeout=60_000)
    assert page.get_by_label("Prompt", exact=True).input_value().startswith("a ball a ball")
    wish(page, steps=0)
    page.locator("#jd_run").click()
    page.get_by_text("A number from 1 to 1000.").first.wait_for(timeout=30_000)
    shoot(page, "generate_error")


def test_video_to_audio_from_an_upload(page, project, app):
    wish(page, seed=2)
    page.get_by_label("Video → audio").check()
    page.locator("input[type=file]:not([webkitdirectory])").first.wait_for(state="attached")
    page.locator("input[type=file][accept*=video]").first.set_input_files(example(app.studio, "a bouncing ball"))
    page.wait_for_function("() => [...document.querySelectorAll('video')].some(v => v.offsetParent && v.src.includes('example'))", timeout=60_000)
    before = len(clips(project))
    page.locator("#jd_run").click()
    page.wait_for_timeout(1000)
    done(page)
    assert len(clips(project)) == before + 1
    page.get_by_label("Text → both").check()


def test_history_after_a_restart_compares_and_fills_the_form(chrome, project, app):
    again = studio.launch(project, port=free_port(), block=False)
    page = open_page(chrome, again.local_url, "History")
    tiles = page.locator("#jd_history [data-pick]")
    tiles.first.wait_for(timeout=60_000)
    assert tiles.count() == len(clips(project)) == 2
    tiles.last.click()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_timeout(800)
    tiles.first.click()
    page.locator("#jd_compare video").nth(1).wait_for(timeout=60_000)
    assert page.locator("#jd_compare").get_by_text("Seed").first.is_visible()
    page.wait_for_timeout(1500)
    shoot(page, "compare")
    page.get_by_role("button", name="Use these settings").click()
    page.locator("#jd_run").wait_for(timeout=30_000)
    page.wait_for_function("() => [...document.querySelectorAll('input[type=number]')].some(i => i.offsetParent && i.value === '2')", timeout=30_000)
    page.close()
    again.close()


def test_guidance_grid(page):
    wish(page, steps=2)
    go(page, "Guidance lab")
    for i, text in enumerate(("0, 2", "1.5")): page.get_by_label("Values").nth(i).fill(text)
    page.locator("#jd_lab_run").click()
    page.wait_for_function("() => document.querySelectorAll('#jd_lab [data-pick]').length === 2", timeout=120_000)
    page.wait_for_timeout(1000)
    shoot(page, "lab")
    page.locator("#jd_lab [data-pick]").last.click()
    page.locator("#jd_run").wait_for(timeout=30_000)


@pytest.mark.parametrize("dark", [False, True])
def test_narrow_screen_and_dark(chrome, app, dark):
    page = open_page(chrome, app.local_url, size=NARROW, dark=dark)
    for tab in ("Generate", "History", "Guidance lab", "About"):
        go(page, tab)
        page.wait_for_timeout(1200)
        assert fits(page), tab
        shoot(page, f"phone_{tab.lower().replace(' ', '_')}{'_dark' if dark else ''}")
    page.close()
