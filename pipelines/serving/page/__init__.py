"""The page: one HTML file without anything from elsewhere."""

import base64
import re
from hashlib import sha256
from pathlib import Path

HTML = Path(__file__).parent / "index.html"


def page() -> tuple[str, dict[str, str]]:
    """The page, and headers that let the browser run what stands in it and nothing else."""
    text = HTML.read_text(encoding="utf-8")
    script, style = (_digest(re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[0]) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; img-src blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}


def _digest(content: str) -> str:
    return f"sha256-{base64.b64encode(sha256(content.encode()).digest()).decode()}"
