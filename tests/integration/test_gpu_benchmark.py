"""The benchmark for GPUs runs where there is torch and timm and nothing else; here, on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
MISSING = ("ray", "mlflow", "pyarrow", "pydantic", "typer", "rich", "optuna")
BARE = """
import runpy, sys
sys.modules.update(dict.fromkeys({missing!r}))
sys.path.insert(0, {folder!r})
sys.argv = {argv!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_it_measures_with_torch_and_timm_alone(tmp_path: Path) -> None:
    small = {"device": "cpu", "model": "test_vit", "img-size": 32, "batch-size": 4, "rounds": 1}
    options = [f"--{name}={value}" for name, value in {**small, "to": tmp_path}.items()]
    code = BARE.format(missing=MISSING, folder=str(SCRIPT.parent), argv=[str(SCRIPT), *options])
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=900)
    rows = json.loads((tmp_path / "steps.json").read_text())["rows"]
    assert len(rows) == 7
    assert all(row["measured"] > 0 for row in rows)
    assert "8 adapters in all blocks, together to solo" in (tmp_path / "steps.md").read_text()
