import subprocess
import sys


def test_losses_need_torch_and_nothing_else():
    """Every module that `import cmkd` adds to those of `import torch` is the project's or Python's own."""
    program = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import cmkd, cmkd.functional, cmkd.losses\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    foreign = {name for name in output.split() if name != "cmkd" and name not in sys.stdlib_module_names}
    assert "cmkd" in output.split()
    assert foreign == set()
