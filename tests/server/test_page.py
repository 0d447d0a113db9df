"""The page of the server in a headless Chromium."""

import base64
import shutil

import pytest
from serving import KEY, MODEL, png, running

from convnext_keras.samples import draw_scenes

pytestmark = [
    pytest.mark.any_backend,
    pytest.mark.integration,
    pytest.mark.skipif(not shutil.which("chromium") or not shutil.which("chromedriver"), reason="no Chromium here"),
]

# A browser's own file chooser and mouse cannot be reached from a script; the event that a drop causes can.
DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), letter => letter.charCodeAt(0));
const carried = new DataTransfer();
carried.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: carried, bubbles: true}));
"""


# What a hostile name server makes of this name: the machine that the browser runs on.
REBOUND = "rebinding.example"


@pytest.fixture
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    rebinding = f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1"
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=900,1900", rebinding):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def wait_for(browser, selector, number):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30).until(lambda _: len(browser.find_elements(By.CSS_SELECTOR, selector)) == number)
    return browser.find_elements(By.CSS_SELECTOR, selector)


def fill(browser, identifier, text):
    field = browser.find_element("id", identifier)
    field.clear()
    field.send_keys(text)
    return field


def test_a_dropped_image_gets_bars_and_a_search_finds_images(browser, tmp_path, index_folder, images):
    pixels, captions = images
    with running(tmp_path / "log.txt", "--index", f"shapes={index_folder}", key="") as (address, _):
        browser.get(address)
        fill(browser, "labels", "\n".join(captions[:5]))
        browser.execute_script(DROP, base64.b64encode(png(pixels[2])).decode())
        bars = wait_for(browser, "#bars .bar", 5)
        assert bars[0].text.startswith(captions[2])
        widths = [bar.find_element("tag name", "i").size["width"] for bar in bars]
        assert widths == sorted(widths, reverse=True)
        fill(browser, "query", captions[7])
        browser.find_element("id", "go").click()
        found = wait_for(browser, "#found figure", 12)
        assert "07.png" in found[0].text
        loaded = "return [...document.querySelectorAll('#found img')].every(image => image.naturalWidth === 64)"
        assert browser.execute_script(loaded)
        asked = "return performance.getEntriesByType('resource').map(entry => entry.name)"
        assert all(name.startswith((address, "data:", "blob:")) for name in browser.execute_script(asked))
        assert browser.save_screenshot(str(tmp_path / "page.png"))


def test_a_segmentation_model_shows_its_classes_in_color(browser, tmp_path):
    scene = draw_scenes()[0][0]
    with running(tmp_path / "log.txt", "--model", "fpn_convnext_mini.shapes", key="") as (address, _):
        browser.get(address)
        wait_for(browser, "#words[hidden]", 1)
        assert browser.find_element("id", "classify").text == "Segment"
        browser.execute_script(DROP, base64.b64encode(png(scene)).decode())
        bars = wait_for(browser, "#bars .bar", 4)
        assert bars[0].text.startswith("background")
        shown = "const image = document.querySelector('#drop img'); return [image.naturalWidth, image.alt]"
        width, alt = browser.execute_script(shown)
        assert width == scene.shape[1]
        assert "triangle" in alt
        assert browser.save_screenshot(str(tmp_path / "segmented.png"))


def test_page_asks_for_a_key_and_shows_errors(browser, address):
    browser.get(address)
    wait_for(browser, "#keys:not([hidden])", 1)
    fill(browser, "key", "wrong\n")
    browser.find_element("id", "classify").click()
    (told,) = wait_for(browser, "#bars .error", 1)
    assert "Choose an image" in told.text
    fill(browser, "key", KEY).send_keys("\t")
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30).until(lambda _: browser.find_element("id", "model").text == MODEL)


def test_a_page_of_a_rebound_name_reads_nothing(browser, tmp_path, index_folder):
    """Without keys, whoever runs in this machine's browser could read the images of an index."""
    with running(tmp_path / "log.txt", "--index", f"shapes={index_folder}", key="") as (address, _):
        port = address.rsplit(":", 1)[1]
        read = "return fetch(arguments[0]).then(answer => answer.status)"
        browser.get(f"http://localhost:{port}/health")
        assert browser.execute_script(read, "/v1/indexes/shapes/images/0") == 200
        browser.get(f"http://{REBOUND}:{port}/health")
        assert "misdirected_request" in browser.page_source
        assert browser.execute_script(read, "/v1/indexes/shapes/images/0") == 421
        assert browser.execute_script(read, "/v1/models") == 421
