"""What docs/method.md shows runs as it is printed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")


def test_the_plain_pytorch_example_runs_and_trains():
    block, of_classes, of_lesions = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    imports = [node for node in ast.parse(block).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(imports) == 3
    names: dict = {}
    torch.manual_seed(0)
    exec(compile(block, "docs/method.md", "exec"), names)
    assert len(names["term"].multipliers) == 20  # the positives, one in ten of 200
    assert 0 < max(names["term"].multipliers.values()) <= 3.0  # the default bound
    exec(compile(of_classes, "docs/method.md", "exec"), names)
    assert len(names["term"].terms[""].multipliers) == 20
    exec(compile(of_lesions, "docs/method.md", "exec"), names)
    assert set(names["term"].terms[""].multipliers) == {"a/lesion-1"}


def test_the_picture_is_there_and_small():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", TEXT)
    assert pictures == ["images/toy_example.png"]
    assert 0 < (ROOT / "docs" / pictures[0]).stat().st_size < 200 * 1024


def test_the_commands_name_scripts_that_exist():
    scripts = re.findall(r"python ((?:benchmarks|docs)/\S+\.py)", TEXT)
    assert len(set(scripts)) == 7
    assert all((ROOT / script).is_file() for script in scripts)


def test_the_method_needs_neither_monai_nor_scipy_and_metrics_not_even_torch():
    heavy = "monai", "ignite", "mlflow", "sklearn", "scipy", "pandas"
    code = (
        "import sys, prostate_alm; assert 'torch' not in sys.modules;"
        "import prostate_alm.method.metrics; assert 'torch' not in sys.modules;"
        "import prostate_alm.method.lagrangian, prostate_alm.method.losses;"
        f"print(sorted(set({heavy}) & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
