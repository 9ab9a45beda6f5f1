"""torchvision without the compiler that it would import."""

import subprocess
import sys
import textwrap


def run(code: str) -> str:
    """Run code in a Python of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_backbones_are_there_without_the_compiler() -> None:
    printed = run("""
        import sys
        from tunesmith_trainer.search.backbones import build_backbone
        print(build_backbone("mobilenet_v2", 32).feature_dim, "torch._dynamo" in sys.modules)
    """)
    assert printed == "1280 False"


def test_what_needs_the_compiler_gets_it() -> None:
    printed = run("""
        import sys, torch
        from tunesmith_trainer.lean_torchvision import torchvision
        pooled = torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]]), 2)
        asked = torchvision.ops.roi_align.__globals__["is_compile_supported"]("cpu")
        from torch._dynamo.utils import is_compile_supported
        torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=0.1).step()
        print(float(pooled.mean()), asked == is_compile_supported("cpu"), "torch._dynamo" in sys.modules)
    """)
    assert printed == "1.0 True True"


def test_stand_in_hands_out_whatever_else_the_module_has() -> None:
    printed = run("""
        import sys
        from tunesmith_trainer.lean_torchvision import _Later
        stand_in = sys.modules["torch._dynamo.utils"] = _Later("torch._dynamo.utils")
        from torch._dynamo.utils import counters
        import torch._dynamo.utils as real
        print(counters is real.counters, real is not stand_in)
    """)
    assert printed == "True True"
