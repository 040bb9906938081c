"""What the command line prints of exported networks, and of pictures they are shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cmkd.cli_output import print_table

if TYPE_CHECKING:
    from cmkd.export import Exported, Prediction


def print_exported(found: Exported) -> None:
    """Print what was written, how it compares with PyTorch, and how fast it is."""
    from cmkd.export.checking import TOLERANCE

    described = found.card.description()
    entry, out = described["input"], described["output"]
    print(f"{found.file}: {found.card.network}, {found.form}, {found.bytes:,} bytes")
    for each in (entry, out):
        shape = ", ".join(map(str, each["shape"]))
        print(f"  {each['name']} ({shape}): {each.get('values') or each['meaning']}")
    if entry["dtype"] == "float32":
        print(f"  of a picture: {entry['picture']}; {entry['channels']}")
    same = found.parity
    print(
        f"compared with PyTorch on {same.images} {found.checked_on}, in batches of 1, 5 and more: the logits "
        f"differ by at most {same.difference:.1e} of the largest ({TOLERANCE:.0e} is allowed), "
        f"{same.agreement:.1%} get the same class"
    )
    if quantized := found.quantized:
        print(
            f"int8, {quantized['calibration']}; {quantized['agreement']:.1%} of the {same.images} images "
            "above get the same class"
        )
        if "accuracy" in quantized:
            print(
                f"accuracy on the {quantized['images']:,} {found.checked_on}: "
                f"{quantized['accuracy_before']:.2%} before, {quantized['accuracy']:.2%} in int8"
            )
        else:
            print("its accuracy is not known: there were no labelled images")
    rows = [
        [name, f"{each['median']:.3f} ms", f"{each['p10']:.3f} to {each['p90']:.3f} ms"]
        for name, each in found.latency_ms.items()
    ]
    print_table(["one image", "median", "10th to 90th percentile"], rows)
    print(f"for people: {found.description}")


def print_predictions(predictions: Iterable[Prediction], *, as_json: bool) -> bool:
    """Print what is on pictures, each as soon as it is known.

    Args:
        predictions: What was found.
        as_json: As one JSON list, instead of a line for each.

    Returns:
        Whether every picture could be read.
    """
    failed = False
    listed: list[dict[str, Any]] = []
    for each in predictions:
        failed |= each.error is not None
        if each.error is not None:
            print(f"cmkd: error: cannot read the image {each.image}: {each.error}", file=sys.stderr)
            listed.append({"image": each.image, "error": each.error})
            continue
        named = [{"class": name, "probability": probability} for name, probability in each.classes]
        listed.append({"image": each.image, "classes": named})
        if not as_json:
            print(f"{each.image}: {', '.join(f'{name} {share:.1%}' for name, share in each.classes)}")
    if as_json:
        print(json.dumps(listed, indent=2))
    return not failed
