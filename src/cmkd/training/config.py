"""What a run is told: plain data, the same in Python, in YAML and on the command line."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from cmkd.errors import InputError

#: Options that change how a run is executed, not what comes out: they may differ when a run is resumed.
EXECUTION_OPTIONS = frozenset(
    {"out", "data_root", "cache", "bad_images", "workers", "checkpoint_seconds", "tracker"}
)

Tracker: TypeAlias = Literal["auto", "none", "tensorboard", "wandb", "mlflow"]


@dataclass(kw_only=True)
class RunConfig:
    """Options of every run.

    Args:
        data: Data set: a name from `cmkd list datasets`, or images of your own: `folder:PATH` in class
            folders, `wds:PATTERN` in tar shards, `hf:NAME` in a Hugging Face data set.
        data_root: Folder that holds (or receives) the data set's files; the embedded set needs none.
        image_size: Side of the training images in pixels; 224 by default for images of your own.
        bad_images: What an image that cannot be decoded does: end the run (`fail`), or be replaced by another
            one and named (`skip`).
        image_column: Column that has the images, for `hf:NAME`; found by its type by default.
        label_column: Column that has the labels, for `hf:NAME`; found by its type by default.
        validation: Share of the training images held out for validation (stratified, seeded); 0 for none.
        augment: Augmentation of the training images: `none`, `flip`, `crop_flip` or `resized_crop_flip`; the
            data set's own by default.
        label_noise: Share of the training labels that are replaced by a random other class, to see what a
            method makes of them; validation and test labels stay. None by default.
        test: When to judge the network on the test set: once at the end by default, after `each` epoch as
            well, or `never`, as for runs that choose options. It has no influence on the training.
        epochs: Passes over the training set.
        batch_size: Images per step, over all processes.
        optimizer: SGD with momentum, or AdamW.
        lr: Peak learning rate.
        momentum: Momentum of SGD (first beta of AdamW).
        nesterov: Nesterov momentum, for SGD.
        weight_decay: L2 penalty (SGD) or decoupled decay (AdamW).
        schedule: Learning rate over time: `cosine` to zero, `multistep`, or `constant`.
        warmup_epochs: Epochs of linear warm-up of the learning rate; a fraction is fine.
        milestones: Epochs at which `multistep` decays; 62.5, 75 and 87.5 % of the epochs by default.
        decay: Factor of each `multistep` decay.
        label_smoothing: Label smoothing of the cross-entropy.
        clip_grad: Largest norm of the gradient; no clipping by default.
        ema_decay: Decay of a moving average of the weights, which is then the result; none by default.
        precision: Arithmetic of the networks; `auto` takes bf16 where the hardware has it, else fp32.
        seed: Seed of the initial weights, of the validation split, of the order and of the augmentation.
        augment_seed: Seed of the augmentation alone; runs that share a teacher cache share it.
        views: Number of augmented versions of every image, shown in turn: epochs e and e + views show the
            same pixels. By default every epoch shows new ones, or with a cache as many as it holds.
        workers: Processes that decode images of your own; sets in memory need none.
        cpu: Stay on the CPU even if there is an accelerator.
        compile: Compile the step with `torch.compile` in this mode; `reduce-overhead` replays it as a CUDA
            graph. Not compiled by default.
        fsdp: With several processes, spread weights and optimiser over them instead of copying them to each.
        checkpoint_seconds: Most seconds of work lost if the run is killed.
        tracker: Where to look on while the run is at work; `auto` is TensorBoard where it is installed. It
            has no influence on what comes out.
        out: Run folder; `runs/...` named after the options by default.
    """

    data: str = "fashion-mnist-12k"
    data_root: str | None = None
    image_size: int | None = None
    bad_images: Literal["fail", "skip"] = "fail"
    image_column: str | None = None
    label_column: str | None = None
    validation: float = 0.1
    augment: str | None = None
    label_noise: float | None = None
    test: Literal["each", "never"] | None = None
    epochs: int = 30
    batch_size: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "multistep", "constant"] = "cosine"
    warmup_epochs: float = 1.0
    milestones: list[int] | None = None
    decay: float = 0.1
    label_smoothing: float = 0.0
    clip_grad: float | None = None
    ema_decay: float | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: int = 0
    augment_seed: int | None = None
    views: int | None = None
    workers: int = 2
    cpu: bool = False
    compile: Literal["default", "reduce-overhead", "max-autotune"] | None = None
    fsdp: bool = False
    checkpoint_seconds: float = 60.0
    tracker: Tracker = "auto"
    out: str | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot work, naming the option.

        Raises:
            InputError: A value is outside its range.
        """
        self._require("epochs", self.epochs >= 1, "at least 1")
        self._require("batch_size", self.batch_size >= 1, "at least 1")
        self._require("validation", 0 <= self.validation < 1, "in [0, 1)")
        # 0 is the run without it, whose folder says nothing of it.
        self.label_noise = self.label_noise or None
        self._require("label_noise", self.label_noise is None or 0 < self.label_noise < 1, "in [0, 1)")
        self._require("lr", 0 < self.lr < float("inf"), "positive and finite")
        self._require("momentum", 0 <= self.momentum < 1, "in [0, 1)")
        self._require("weight_decay", self.weight_decay >= 0, "at least 0")
        self._require("warmup_epochs", 0 <= self.warmup_epochs <= self.epochs, "between 0 and the epochs")
        self._require("decay", 0 < self.decay <= 1, "in (0, 1]")
        self._require("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)")
        self._require("clip_grad", self.clip_grad is None or self.clip_grad > 0, "positive")
        self._require("ema_decay", self.ema_decay is None or 0 < self.ema_decay < 1, "in (0, 1)")
        self._require("image_size", self.image_size is None or self.image_size >= 8, "at least 8")
        self._require("checkpoint_seconds", self.checkpoint_seconds >= 0, "at least 0")
        self._require(
            "milestones",
            self.milestones is None or self.milestones == sorted(set(self.milestones)),
            "epochs in rising order",
        )
        self._require("tracker", self.tracker in get_args(Tracker), f"one of {', '.join(get_args(Tracker))}")
        self._require("workers", self.workers >= 0, "at least 0")
        self._require("seed", 0 <= self.seed < 2**31, "between 0 and 2147483647")
        if self.fsdp and self.ema_decay is not None:
            raise InputError("--ema_decay needs whole weights at every step; leave it or --fsdp out.")
        self._require("augment_seed", self.augment_seed is None or self.augment_seed >= 0, "at least 0")
        self._require("views", self.views is None or self.views >= 1, "at least 1")

    def _require(self, name: str, valid: bool, range_: str) -> None:
        if not valid:
            raise InputError(f"--{name} is {getattr(self, name)}; it has to be {range_}.")

    def options(self) -> dict[str, Any]:
        """Return what `config.yaml` keeps: every option but `out`, which the folder itself says."""
        return {key: value for key, value in self._plain().items() if key != "out"}

    def identity(self) -> dict[str, Any]:
        """Return the options that decide what comes out; a run folder belongs to one such set."""
        return {key: value for key, value in self._plain().items() if key not in EXECUTION_OPTIONS}

    def _plain(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(kw_only=True)
class TrainConfig(RunConfig):
    """Train a network on labels alone: a teacher, or a baseline.

    Args:
        model: Network: a name from `cmkd list models`, `timm:NAME`, `torchvision:NAME` or
            `package.module:factory`.
        weights: Weights to start from: a run folder of the same network, a file (`.safetensors`, `.pt`,
            `.pth`), or `pretrained` for those of timm or torchvision; random by default. If they are for
            other classes, the classifier is new.
    """

    model: str = "resnet20"
    weights: str | None = None

    @property
    def network(self) -> tuple[str, str | None]:
        """The network that is trained, and the weights that it starts from."""
        return self.model, self.weights

    def name(self) -> str:
        """Return the name of the default run folder."""
        return _slug("train", self.data, self.model, f"seed{self.seed}")


@dataclass(kw_only=True)
class DistillConfig(RunConfig):
    """Distil a teacher into a student.

    Args:
        teacher: Run folder of a trained network (`demo`: the one that ships with the package), or a network
            by name (then with `teacher_weights`); several, by a list or by repeating the option, teach
            together by the mean of their logits. With `cache` it may be left out; then nothing is compared
            with it on validation and test images.
        teacher_weights: Weights of a teacher given by name: a file (`.safetensors`, `.pt`, `.pth`),
            `pretrained` for those of timm or torchvision, or `random` to try things out. Of several, one for
            each that is given by name, in their order, or one for all of these.
        teacher_mean: Mean that the teacher's images are normalised with, if the teacher does not tell.
        teacher_std: Standard deviation that goes with `teacher_mean`.
        teacher_image_size: Side of the images that the teacher expects, which are resized for it; by
            default what its run folder says, or that of the data.
        cache: Folder with the teacher's logits for the training images, written by `cmkd cache`.
        student: Network to train: a name from `cmkd list models`, `timm:NAME`, `torchvision:NAME` or
            `package.module:factory`.
        student_weights: Weights that it starts from: a run folder of the same network, a file, or
            `pretrained` for those of timm or torchvision; random by default. If they are for other classes,
            the classifier is new.
        task_weight: Weight of the cross-entropy; what the method's paper gives it by default.
        distill_warmup_epochs: Epochs over which the distillation loss is faded in linearly.
        loss: Distillation method and its options: `{"name": "CMKD", "alpha": 8}`.
        with_: More methods that are added to it, on logits or features: `[{"name": "ReviewKD"}]`; in YAML and
            on the command line it is `with`.
    """

    teacher: list[str] | str | None = None
    teacher_weights: list[str] | str | None = None
    teacher_mean: list[float] | None = None
    teacher_std: list[float] | None = None
    teacher_image_size: int | None = None
    cache: str | None = None
    student: str = "resnet8"
    student_weights: str | None = None
    task_weight: float | None = None
    distill_warmup_epochs: float = 0.0
    loss: dict[str, Any] = field(default_factory=lambda: {"name": "CMKD"})
    with_: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse values that cannot work, naming the option.

        Raises:
            InputError: A value is outside its range.
        """
        super().__post_init__()
        self.teacher = one_or_several(self.teacher)
        self._require("task_weight", self.task_weight is None or self.task_weight >= 0, "at least 0")
        self._require("distill_warmup_epochs", self.distill_warmup_epochs >= 0, "at least 0")
        if self.teacher is None and self.cache is None:
            raise InputError(
                "--teacher is required: a run folder, or a network by name; or --cache with its logits."
            )
        if self.teacher is None and (self.teacher_weights or self.teacher_mean or self.teacher_image_size):
            raise InputError(
                "--teacher_weights, --teacher_mean and --teacher_image_size say something of --teacher; give "
                "that too."
            )
        require_input(self.teacher_mean, self.teacher_std, self.teacher_image_size)
        require_names(self.loss, self.with_)

    def _plain(self) -> dict[str, Any]:
        plain = super()._plain()
        added = plain.pop("with_")
        # Left out where nothing is added, as in the runs from before there was such an option.
        return {**plain, "with": added} if added else plain

    @property
    def network(self) -> tuple[str, str | None]:
        """The network that is trained, and the weights that it starts from."""
        return self.student, self.student_weights

    def name(self) -> str:
        """Return the name of the default run folder."""
        methods = "-".join(loss["name"] for loss in (self.loss, *self.with_))
        return _slug("distill", self.data, self.student, methods, f"seed{self.seed}")


def one_or_several(teacher: list[str] | str | None) -> list[str] | str | None:
    """Return a list of one teacher as that teacher; an empty list raises `InputError`."""
    if teacher == []:
        raise InputError("--teacher is an empty list; name at least one.")
    return teacher[0] if isinstance(teacher, list) and len(teacher) == 1 else teacher


def require_input(mean: list[float] | None, std: list[float] | None, image_size: int | None) -> None:
    """Raise `InputError` unless a teacher's mean and std go together and its images have a size."""
    if image_size is not None and image_size < 8:
        raise InputError(f"--teacher_image_size is {image_size}; it has to be at least 8.")
    if (mean is None) != (std is None):
        raise InputError("--teacher_mean and --teacher_std go together; one of them is missing.")
    if std is not None and not all(value > 0 for value in std):
        raise InputError(f"--teacher_std is {std}; every value has to be positive.")


def require_names(loss: object, added: object) -> None:
    """Raise `InputError` unless `loss` and each of the list `with` are options with a name."""
    if not isinstance(added, list):
        raise InputError(f"`with` is {added!r}; it has to be a list, such as [{{name: ReviewKD}}].")
    for spec in (loss, *added):
        if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
            raise InputError(f"the loss {spec!r} has no name; it should read like {{name: CMKD, alpha: 8}}.")


def _slug(*parts: str) -> str:
    text = "-".join(parts).lower()
    return "".join(char if char.isalnum() or char in "-._" else "-" for char in text)
