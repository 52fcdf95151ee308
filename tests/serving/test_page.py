"""The page in a real browser: search, choose, read recommendations and why; titles are text, never markup."""

import os
import shutil
import socket
import threading
import time

import pytest

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")
webdriver = pytest.importorskip("selenium.webdriver")

from diffrec_jax.serving.service import create_app  # noqa: E402 (needs what is checked above)

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]


@pytest.fixture
def address(shop):
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(shop), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join(timeout=20)


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}/profile"):
        options.add_argument(flag)
    options.add_argument("--window-size=900,1300")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the page did not get there"
        time.sleep(0.05)
    return found


def test_a_person_finds_items_and_reads_why(address, browser, shop):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    def texts(selector):
        return browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map(n => n.innerText)", selector
        )

    browser.get(address)
    wait_for(lambda: texts("#list-head") == ["Most popular"] and len(texts("#list > li")) == 10)
    search = browser.find_element(By.ID, "search")
    for words, title in (("number 12", "Thing number 12"), ("emile", "Émile's <b>Größe</b>")):
        search.send_keys(words)
        wait_for(lambda title=title: texts("#found li") == [title])
        search.send_keys(Keys.ENTER)
        wait_for(lambda title=title: any(title in text for text in texts("#chosen li")))
    wait_for(lambda: texts("#list-head") == ["Recommended, and why"] and len(texts(".why")) == 10)
    expected = shop.recommend(histories=[["sku12", "sku7"]], k=10)["item"]
    titles = [shop.vocabulary.title(n) for n in shop.vocabulary.items(expected)[0]]
    wait_for(lambda: texts(".head b") == titles)
    assert not browser.find_elements(By.CSS_SELECTOR, "#chosen b, .why b")
    assert all("because of" in text or "despite" in text for text in texts(".why"))
    if os.environ.get("DIFFREC_JAX_SCREENSHOT"):
        browser.save_screenshot(os.environ["DIFFREC_JAX_SCREENSHOT"])
    browser.find_elements(By.CSS_SELECTOR, "#list button")[0].click()
    wait_for(lambda: len(texts("#chosen li")) == 3)
    browser.find_elements(By.CSS_SELECTOR, "#chosen button")[0].click()
    wait_for(lambda: len(texts("#chosen li")) == 2)
    problems = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert [p for p in problems if "favicon" not in p["message"]] == []
