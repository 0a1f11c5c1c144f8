"""Pictures of every view, as the documentation shows them: GPUBROKER_PICTURES=docs/images keeps them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from broker import Broker
from tests.page import studio
from tests.page.seeing import Tabs, live
from tests.page.serving import Served

DESKTOP, PHONE = {"width": 1360, "height": 860}, {"width": 390, "height": 844}
CARD = f"card/{studio.uuid('darkroom', 0)}"
PICTURES = (
    ("page-cards", "cards", DESKTOP, "light"), ("page-cards-dark", "cards", DESKTOP, "dark"),
    ("page-card", CARD, {"width": 1360, "height": 1240}, "light"), ("page-leases", "leases", DESKTOP, "light"),
    ("page-waiter", "waiter/album-7", DESKTOP, "light"), ("page-journal", "journal", DESKTOP, "dark"),
    ("page-phone", "cards", PHONE, "light"), ("page-phone-dark", "leases", PHONE, "dark"),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the pictures go."""
    wanted = os.environ.get("GPUBROKER_PICTURES")
    found = Path(wanted) if wanted else tmp_path
    found.mkdir(parents=True, exist_ok=True)
    return found


def test_a_studio_at_work_can_be_pictured(tabs: Tabs, served: Served, broker: Broker, folder: Path) -> None:
    studio.fill(broker)
    for name, view, size, scheme in PICTURES:
        page = tabs.open(f"{served.url}#/{view}", viewport=size, color_scheme=scheme, device_scale_factor=1.5)
        live(page)
        expect(page.locator("#headline")).to_have_text("Needs you")
        expect(page.locator("#main").locator(".row[data-key], .setting, .detail").first).to_be_visible()
        if view == "cards":
            expect(page.locator(".scale i:visible").first).to_be_visible()
        if view == CARD:
            expect(page.locator("#main canvas")).to_have_count(3)
            expect(page.locator(".trend")).to_contain_text("At ")
        if view.startswith("waiter/"):
            expect(page.locator(".reasons li").first).to_contain_text("waits for")
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        shot.quantize(256, dither=Image.Dither.NONE).save(folder / f"{name}.png", optimize=True)
    assert len(list(folder.glob("page-*.png"))) == len(PICTURES)
