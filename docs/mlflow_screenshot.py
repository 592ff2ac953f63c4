"""Draw docs/images/mlflow_compare.png: two ensembles in the comparison of the MLflow UI, as a person gets there.

Needs Chromium and its driver (Debian: chromium, chromium-driver) and `pip install selenium`. Run from the repository
root:
python docs/mlflow_screenshot.py sqlite:///mlflow.db cifar10-0-1 "a_fl-alm 1-9" "a_fl-baseline 1-9"
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

PICTURE = Path(__file__).parent / "images" / "mlflow_compare.png"
WIDTH, HEIGHT = 1400, 2040
WAIT_S = 60.0
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--window-size={WIDTH},{HEIGHT}",
)
REMEMBERED = {  # what the UI keeps in the browser: model training, not chats; no assistant beside the page
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
}
SCROLL_BACK = "document.querySelectorAll('*').forEach(e => { if (e.scrollLeft > 0) e.scrollLeft = 0; })"


@contextmanager
def ui(store: str) -> Iterator[str]:
    """Start the MLflow UI on a store; give its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        store,
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


@contextmanager
def browser() -> Iterator[Chrome]:
    """Start a browser that remembers nothing."""
    options = Options()
    profile = tempfile.mkdtemp()
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)


def visible(driver: Chrome, xpath: str) -> WebElement:
    """Return an element once it can be seen."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        for element in driver.find_elements(By.XPATH, xpath):
            if element.is_displayed():
                return element
        time.sleep(0.2)
    raise SystemExit(f"the page must show {xpath}, got none in {driver.current_url}. Has MLflow changed its pages?")


def compare(driver: Chrome, address: str, *, experiment_id: str, runs: list[str]) -> None:
    """Select two runs in the list of runs and compare them, then open the summaries."""
    driver.get(address)
    for key, value in REMEMBERED.items():
        driver.execute_script("localStorage.setItem(arguments[0], arguments[1])", key, value)
    driver.get(f"{address}/#/experiments/{experiment_id}/runs")
    driver.refresh()
    for name in runs:
        row = visible(driver, f"//*[@role='row'][.//*[text()='{name}']]").get_attribute("row-id")
        visible(driver, f"//*[@role='row' and @row-id='{row}']//input[@type='checkbox']/ancestor::*[1]").click()
    visible(driver, "//button[normalize-space()='Compare']").click()
    visible(driver, "//*[text()='Parameters']").click()  # folds them
    visible(driver, "//*[text()='at_a_glance.md']").click()
    visible(driver, "//*[contains(text(), 'Verdict')]")
    driver.execute_script(SCROLL_BACK)
    time.sleep(1)  # until the plot stands still


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("experiment")
    parser.add_argument("runs", nargs=2, metavar="run", help="name of an ensemble's run")
    parser.add_argument("--output", type=Path, default=PICTURE)
    options = parser.parse_args()
    experiment_id = MlflowClient(options.store).get_experiment_by_name(options.experiment).experiment_id
    with ui(options.store) as address, browser() as driver:
        compare(driver, address, experiment_id=experiment_id, runs=options.runs)
        driver.save_screenshot(options.output)
    print(options.output)


if __name__ == "__main__":
    main()
