"""What `cmkd cache` is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cmkd.errors import InputError
from cmkd.training.config import one_or_several, require_input


@dataclass(kw_only=True)
class CacheConfig:
    """Write down a teacher's logits once, for any number of students.

    Args:
        path: Folder of the cache. An interrupted cache is finished, a finished one gets further views.
        verify: Compare the checksums of all files of the cache, and write nothing.
        teacher: Run folder of a trained network, or a network by name (then with `teacher_weights`); of
            several, by a list or by repeating the option, the mean of the logits is written.
        teacher_weights: Weights of a teacher given by name: a file (`.safetensors`, `.pt`, `.pth`),
            `pretrained` for those of timm or torchvision, or `random` to try things out. Of several, one for
            each that is given by name, in their order, or one for all of these.
        teacher_mean: Mean that the teacher's images are normalised with, if the teacher does not tell.
        teacher_std: Standard deviation that goes with `teacher_mean`.
        teacher_image_size: Side of the images that the teacher expects, which are resized for it; by
            default what its run folder says, or that of the data.
        data: Data set: a name from `cmkd list datasets`; all its training images are looked at.
        data_root: Folder that holds (or receives) the data set's files; the embedded set needs none.
        image_size: Side of the images in pixels; 224 by default for images of your own.
        bad_images: What an image that cannot be decoded does: end the work (`fail`), or be replaced by
            another one and named (`skip`).
        image_column: Column that has the images, for `hf:NAME`; found by its type by default.
        label_column: Column that has the labels, for `hf:NAME`; found by its type by default.
        augment: Augmentation of the images; the data set's own by default.
        augment_seed: Seed of the augmentation; give the runs that use the cache the same.
        views: Number of augmented versions of every image.
        dtype: Type of the stored logits; float32 for logits beyond 65504.
        precision: Arithmetic of the teacher; `auto` takes bf16 where the hardware has it, else fp32.
        batch_size: Images that the teacher looks at together.
        workers: Processes that decode images of your own; sets in memory need none.
        cpu: Stay on the CPU even if there is an accelerator.
    """

    path: str
    verify: bool = False
    teacher: list[str] | str | None = None
    teacher_weights: list[str] | str | None = None
    teacher_mean: list[float] | None = None
    teacher_std: list[float] | None = None
    teacher_image_size: int | None = None
    data: str = "fashion-mnist-12k"
    data_root: str | None = None
    image_size: int | None = None
    bad_images: Literal["fail", "skip"] = "fail"
    image_column: str | None = None
    label_column: str | None = None
    augment: str | None = None
    augment_seed: int = 0
    views: int = 1
    dtype: Literal["float16", "float32"] = "float16"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    batch_size: int = 256
    workers: int = 2
    cpu: bool = False

    def __post_init__(self) -> None:
        """Refuse values that cannot work, naming the option.

        Raises:
            InputError: A value is outside its range.
        """
        self.teacher = one_or_several(self.teacher)
        if self.teacher is None and not self.verify:
            raise InputError("--teacher is required: the network whose logits are to be written down.")
        require_input(self.teacher_mean, self.teacher_std, self.teacher_image_size)
        for name, least in (("views", 1), ("batch_size", 1), ("workers", 0), ("augment_seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} is {getattr(self, name)}; it has to be at least {least}.")
