import pytest

from cmkd.kernels import native, switch


@pytest.fixture(scope="module", params=["torch", "compiled"])
def backend(request):
    """Both ways in which ranks are computed on CPU: the definition in PyTorch, and the C kernels."""
    if request.param == "torch":
        with switch.disabled():
            yield
    elif native.available():
        yield
    else:
        pytest.skip(native.describe())
