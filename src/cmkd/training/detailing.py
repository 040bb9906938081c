"""What the figures of a report are drawn from, measured once and kept in the run folder."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmkd.data import Batch, Loader
from cmkd.errors import InputError
from cmkd.evaluation import collect_all
from cmkd.evaluation.embedding import Layout, Penultimate, lay_out, neighbour_purity
from cmkd.evaluation.plane import choose_three, decisions, plane_through
from cmkd.evaluation.robustness import RobustnessOptions, robustness, stratified
from cmkd.files import write_atomic
from cmkd.training.details import ELASTIC, ELASTIC_SEVERITY, STORED, VERSION, weights_of
from cmkd.training.opened import OpenedRun, open_run
from cmkd.training.processes import process_state
from cmkd.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

#: Numbers that are stored of either network at most: with many classes there are fewer images.
MOST_LOGITS = 1 << 22
#: Longer side of a stored picture in pixels, and WebP's quality.
PICTURE, QUALITY = 64, 90
#: Images and classes of the embedding, points of a decision slice along either axis.
EMBEDDED, EMBEDDED_CLASSES, SLICE_SIDE = 1000, 10, 56


def keep_details(
    run: str | Path,
    *,
    images: int = 2000,
    layout: Layout = "tsne",
    data_root: str | None = None,
    cpu: bool = False,
) -> Path:
    """Measure a finished run for the figures of its report, and keep what was found in `details.npz`.

    Args:
        run: Run folder.
        images: Test images to look at, at most, the same share of every class; fewer if there are so many
            classes that the logits would take hundreds of megabytes.
        layout: How the features are laid out: `tsne` or `umap`.
        data_root: Folder with the data set's files, if it is not where the run found it.
        cpu: Stay on the CPU even if there is an accelerator.

    Returns:
        The file; `cmkd.training.details.Details` reads it.

    Raises:
        InputError: The folder is no finished run, it was told never to look at the test set, its data is not
            to be had, its teacher has other weights now, or the file cannot be written.
    """
    path = Path(run)
    if RunFolder(path).read_config().get("test") == "never":
        raise InputError(
            f"{path} was told never to look at the test set (--test never), of which the figures are; "
            "`cmkd evaluate` measures it on its validation part."
        )
    opened = open_run(path, "test", data_root, torch.device(process_state(cpu=cpu).device))
    loader = opened.loader
    count = max(1, min(images, MOST_LOGITS // opened.data.num_classes))
    chosen = stratified(loader.images.targets, count, seed=0)
    kept = _Kept(missing=dict(opened.missing))
    kept.meta |= {"version": VERSION, "asked": images, "of": len(loader.indices), "weights": weights_of(path)}
    kept.meta |= {"network": opened.name, "classes": list(opened.data.classes), "layout": layout}
    if opened.report is not None:
        kept.meta["teacher"] = {"network": opened.report.network, "sha256": opened.report.sha256}
    part = opened.loader_of(chosen)
    _answers(opened, part, kept)
    for what, measure in (("elastic", _elastic), ("slice", _slice), ("embedding", _embedding)):
        with kept.unless_impossible(what):
            measure(opened, part, kept)
    kept.meta["missing"] = kept.missing
    packed = io.BytesIO()
    np.savez_compressed(packed, meta=np.array(json.dumps(kept.meta)), **kept.arrays)
    return write_atomic(path / STORED, packed.getvalue())


@dataclass
class _Kept:
    """What has been found."""

    missing: dict[str, str]
    arrays: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    @contextlib.contextmanager
    def unless_impossible(self, what: str) -> Iterator[None]:
        """Note in `missing` why something cannot be measured, and go on."""
        try:
            yield
        except InputError as error:
            self.missing[what] = str(error)


def _answers(opened: OpenedRun, part: Loader, kept: _Kept) -> None:
    """Keep the logits, and small pictures of the images."""
    mean, std = (
        torch.tensor(each, device=opened.device).view(-1, 1, 1)
        for each in (opened.data.mean, opened.data.std)
    )
    pictures: list[bytes] = []

    def seen() -> Iterator[Batch]:
        for batch in part.epoch(0):
            pixels = ((batch.images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).cpu()
            pictures.extend(map(_picture, pixels))
            yield batch

    logits, targets, indices = collect_all(opened.networks, seen())
    kept.arrays |= {name: each.cpu().numpy() for name, each in logits.items()}
    kept.arrays |= {"targets": targets.cpu().numpy(), "indices": indices.cpu().numpy()}
    kept.arrays["pictures"] = np.frombuffer(b"".join(pictures), dtype=np.uint8)
    kept.arrays["picture_ends"] = np.cumsum([len(each) for each in pictures])


def _picture(pixels: Tensor) -> bytes:
    """Return uint8 `(3, H, W)` as a small WebP."""
    from PIL import Image

    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    picture.thumbnail((PICTURE, PICTURE))
    packed = io.BytesIO()
    picture.save(packed, "WEBP", quality=QUALITY)
    return packed.getvalue()


def _elastic(opened: OpenedRun, part: Loader, kept: _Kept) -> None:
    """Keep the accuracy on the same images, elastically transformed."""
    options = RobustnessOptions((ELASTIC,), (ELASTIC_SEVERITY,), None, 0)
    found = robustness(opened.networks, part, opened.data, options)
    accuracy = found["corruptions"][ELASTIC]["accuracy"]
    kept.meta["elastic"] = {
        "severity": ELASTIC_SEVERITY,
        "clean": {name: share["value"] for name, share in found["clean"].items() if name in accuracy},
        "accuracy": {name: values[0] for name, values in accuracy.items()},
    }


def _slice(opened: OpenedRun, part: Loader, kept: _Kept) -> None:
    """Keep the decisions on the plane through three images, which the teacher's answers choose."""
    teacher = opened.teacher
    if teacher is None:
        raise InputError(f"the teacher chooses the three images; {kept.missing['teacher']}")
    logits, targets = (torch.from_numpy(kept.arrays[name]) for name in ("teacher", "targets"))
    chosen = choose_three(logits, targets)
    if chosen is None:
        raise InputError("the teacher does not get images of three classes right")
    batches = opened.loader_of(part.indices[chosen]).epoch(0)
    plane = plane_through(torch.cat([batch.images for batch in batches]), SLICE_SIDE)

    def answering(network: Callable[[Batch], Tensor]) -> Callable[[Tensor], Tensor]:
        def answer(images: Tensor) -> Tensor:
            nobody = torch.zeros(len(images), dtype=torch.long, device=images.device)
            return network(Batch(images.contiguous(memory_format=torch.channels_last), nobody, nobody, 0))

        return answer

    for name, network in opened.networks.items():
        classes = decisions(answering(network), plane.points)
        kept.arrays[f"slice_{name}"] = classes.view(SLICE_SIDE, SLICE_SIDE).cpu().numpy().astype(np.int32)
    kept.meta["slice"] = {
        "positions": chosen,
        "corners": plane.corners.tolist(),
        "x": [float(plane.x[0]), float(plane.x[-1])],
        "y": [float(plane.y[0]), float(plane.y[-1])],
    }


def _embedding(opened: OpenedRun, part: Loader, kept: _Kept) -> None:
    """Keep a layout of what the student makes of test images of a few classes."""
    targets = opened.loader.images.targets
    classes = targets.unique()
    spread = torch.linspace(0, len(classes) - 1, min(EMBEDDED_CLASSES, len(classes))).round().long()
    of_them = torch.isin(targets, classes[spread]).nonzero().flatten()
    chosen = of_them[stratified(targets[of_them], min(EMBEDDED, kept.meta["asked"]), seed=0)]
    embed = Penultimate(opened.network, opened.data.image_size)
    features = torch.cat([embed(batch.images) for batch in opened.loader_of(chosen).epoch(0)]).cpu()
    kept.arrays["embedding"] = lay_out(features, kept.meta["layout"]).numpy()
    kept.arrays["embedding_targets"] = targets[chosen].numpy()
    kept.meta["embedding"] = {
        "dimensions": features.shape[1],
        "purity": neighbour_purity(features, targets[chosen]),
    }
